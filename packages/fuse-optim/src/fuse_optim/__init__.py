"""Sharpness-aware minimization (SAM) for PyTorch."""

from .__about__ import __version__
from .batch_norm_stats import freeze_batch_norm_stats
from .look_sam import LookSAM
from .momentum_sam import MomentumSAM
from .norm_layers import norm_layers
from .rng_snapshot import RNGSnapshot
from .sam import SAM

__all__ = ["SAM", "LookSAM", "MomentumSAM", "RNGSnapshot", "__version__", "freeze_batch_norm_stats", "norm_layers"]


def __dir__() -> list[str]:
    return __all__
