"""Generalized Dice loss over a batch_dict."""

from typing import Unpack

from .functional.generalized_dice import GeneralizedDiceOptions, generalized_dice_loss
from .loss_dense import DenseArguments, LossDense


class GeneralizedDiceArguments(DenseArguments, GeneralizedDiceOptions, total=False):
    """The keyword arguments of `LossGeneralizedDice`."""


class LossGeneralizedDice(LossDense):
    """`functional.generalized_dice_loss` of a prediction and a target of the batch_dict.

    Args:
        **arguments: those of `LossDense` and the options of `functional.generalized_dice_loss`.

    Example:
        >>> import torch
        >>> loss = LossGeneralizedDice(pred="model.logits.seg", target="data.seg")
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6250)
    """

    function = staticmethod(generalized_dice_loss)

    def __init__(self, **arguments: Unpack[GeneralizedDiceArguments]) -> None:
        super().__init__(**arguments)
