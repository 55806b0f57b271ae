"""Losses for PyTorch that read what they need from a nested batch_dict, and the same losses as functions."""

from . import functional
from .__about__ import __version__
from ._dense.options import DenseOptions
from .loss_base import LossBase
from .loss_compound import LossCompound
from .loss_default import LossDefault
from .loss_dense import LossDense
from .loss_dice import LossDice
from .loss_extract_from_batch_dict import LossExtractFromBatchDict
from .loss_focal import LossFocal
from .loss_generalized_dice import LossGeneralizedDice
from .loss_linear_compound import LossLinearCompound
from .loss_segmentation_cross_entropy import LossSegmentationCrossEntropy
from .loss_supervised_contrastive import LossSupervisedContrastive
from .loss_tversky import LossTversky
from .loss_warm_up import LossWarmUp
from .loss_wrap_to_dict import LossWrapToDict

__all__ = [
    "DenseOptions",
    "LossBase",
    "LossCompound",
    "LossDefault",
    "LossDense",
    "LossDice",
    "LossExtractFromBatchDict",
    "LossFocal",
    "LossGeneralizedDice",
    "LossLinearCompound",
    "LossSegmentationCrossEntropy",
    "LossSupervisedContrastive",
    "LossTversky",
    "LossWarmUp",
    "LossWrapToDict",
    "__version__",
    "functional",
]


def __dir__() -> list[str]:
    return __all__
