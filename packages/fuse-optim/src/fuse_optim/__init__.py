"""Sharpness-aware minimization (SAM) for PyTorch."""

from .__about__ import __version__
from .batch_norm_stats import freeze_batch_norm_stats
from .rng_snapshot import RNGSnapshot
from .sam import SAM

__all__ = ["SAM", "RNGSnapshot", "__version__", "freeze_batch_norm_stats"]
