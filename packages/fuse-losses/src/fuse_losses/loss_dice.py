"""Dice loss over a batch_dict."""

from typing import Unpack

from .functional.dice import DiceOptions, dice_loss
from .loss_dense import DenseArguments, LossDense


class DiceArguments(DenseArguments, DiceOptions, total=False):
    """The keyword arguments of `LossDice`."""


class LossDice(LossDense):
    """`functional.dice_loss` of a prediction and a target of the batch_dict.

    Args:
        **arguments: those of `LossDense` and the options of `functional.dice_loss`.

    Example:
        >>> import torch
        >>> loss = LossDice(pred="model.logits.seg", target="data.seg", include_background=False)
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6667)
    """

    function = staticmethod(dice_loss)

    def __init__(self, **arguments: Unpack[DiceArguments]) -> None:
        super().__init__(**arguments)
