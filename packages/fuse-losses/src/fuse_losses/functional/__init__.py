"""The losses as plain functions: tensors in, a tensor out."""

from .._dense.class_weights import inverse_proportion_weights
from .._dense.resize_target import resize_target
from .compound import compound_loss
from .cross_entropy import segmentation_cross_entropy
from .dice import dice_loss
from .focal import focal_loss
from .generalized_dice import generalized_dice_loss
from .linear_compound import linear_compound_loss
from .supervised_contrastive import supervised_contrastive_loss
from .top_k_cross_entropy import top_k_cross_entropy
from .tversky import tversky_loss

__all__ = [
    "compound_loss",
    "dice_loss",
    "focal_loss",
    "generalized_dice_loss",
    "inverse_proportion_weights",
    "linear_compound_loss",
    "resize_target",
    "segmentation_cross_entropy",
    "supervised_contrastive_loss",
    "top_k_cross_entropy",
    "tversky_loss",
]


def __dir__() -> list[str]:
    return __all__
