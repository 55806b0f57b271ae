"""Sharpness-aware minimization (SAM) for PyTorch."""

from .__about__ import __version__
from .sam import SAM

__all__ = ["SAM", "__version__"]
