"""Models for PyTorch that read from and write to a nested batch_dict."""

from .__about__ import __version__
from .model_wrap_seq_to_dict import ModelWrapSeqToDict

__all__ = ["ModelWrapSeqToDict", "__version__"]
