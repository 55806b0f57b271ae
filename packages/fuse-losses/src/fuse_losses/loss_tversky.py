"""Tversky loss over a batch_dict."""

from typing import Unpack

from .functional.tversky import TverskyOptions, tversky_loss
from .loss_dense import DenseArguments, LossDense


class TverskyArguments(DenseArguments, TverskyOptions, total=False):
    """The keyword arguments of `LossTversky`."""


class LossTversky(LossDense):
    """`functional.tversky_loss` of a prediction and a target of the batch_dict.

    Args:
        **arguments: those of `LossDense` and the options of `functional.tversky_loss`.

    Example:
        >>> import torch
        >>> loss = LossTversky(
        ...     pred="model.logits.seg", target="data.seg", alpha=0.3, beta=0.7, include_background=False
        ... )
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6154)
    """

    function = staticmethod(tversky_loss)

    def __init__(self, **arguments: Unpack[TverskyArguments]) -> None:
        super().__init__(**arguments)
