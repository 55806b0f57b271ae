"""Losses for PyTorch that read what they need from a nested batch_dict."""

from .__about__ import __version__
from .loss_base import LossBase
from .loss_default import LossDefault

__all__ = ["LossBase", "LossDefault", "__version__"]
