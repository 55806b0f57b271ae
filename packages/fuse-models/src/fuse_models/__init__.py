"""Models for PyTorch that read from and write to a nested batch_dict."""

from .__about__ import __version__
from .load_state_dict_file import load_state_dict_file
from .model_multi_head import ModelMultiHead
from .model_multistream import ModelMultistream
from .model_siamese import ModelSiamese
from .model_wrap_dict_to_seq import ModelWrapDictToSeq
from .model_wrap_seq_to_dict import ModelWrapSeqToDict

__all__ = [
    "ModelMultiHead",
    "ModelMultistream",
    "ModelSiamese",
    "ModelWrapDictToSeq",
    "ModelWrapSeqToDict",
    "__version__",
    "load_state_dict_file",
]
