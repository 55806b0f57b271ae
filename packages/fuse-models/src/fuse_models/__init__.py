"""Models for PyTorch that read from and write to a nested batch_dict."""

from .__about__ import __version__
from .load_state_dict_file import load_state_dict_file
from .model_multi_head import ModelMultiHead
from .model_wrap_seq_to_dict import ModelWrapSeqToDict

__all__ = ["ModelMultiHead", "ModelWrapSeqToDict", "__version__", "load_state_dict_file"]
