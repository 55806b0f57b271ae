"""Focal loss over a batch_dict."""

from typing import Unpack

from .functional.focal import FocalOptions, focal_loss
from .loss_dense import DenseArguments, LossDense


class FocalArguments(DenseArguments, FocalOptions, total=False):
    """The keyword arguments of `LossFocal`."""


class LossFocal(LossDense):
    """`functional.focal_loss` of a prediction and a target of the batch_dict.

    It serves classifications (`[B, C]` and `[B]`) as well. An `alpha` for each class is a buffer.

    Args:
        **arguments: those of `LossDense` and the options of `functional.focal_loss`.

    Example:
        >>> import torch
        >>> loss = LossFocal(pred="model.logits.cls", target="data.label", gamma=2.0)
        >>> loss({"model.logits.cls": torch.zeros(2, 2), "data.label": torch.tensor([0, 1])})
        tensor(0.1733)
    """

    function = staticmethod(focal_loss)

    def __init__(self, **arguments: Unpack[FocalArguments]) -> None:
        super().__init__(**arguments)
