"""A weighted sum of dense losses over a batch_dict."""

from typing import Unpack

from .functional.compound import CompoundOptions, compound
from .loss_dense import DenseArguments, LossDense


class CompoundArguments(DenseArguments, CompoundOptions, total=False):
    """The keyword arguments of `LossCompound`."""


class LossCompound(LossDense):
    """`functional.compound_loss` of a prediction and a target of the batch_dict: Dice and cross-entropy for instance.

    After a call, `terms` holds the detached value of each loss by its name, before its weight.

    Args:
        **arguments: those of `LossDense` and `terms`, see `functional.compound_loss`.

    Example:
        >>> import torch
        >>> loss = LossCompound(
        ...     pred="model.logits.seg",
        ...     target="data.seg",
        ...     terms={"cross_entropy": 1.0, "dice": {"weight": 0.5, "include_background": False}},
        ... )
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(1.0265)
        >>> loss.terms
        {'cross_entropy': tensor(0.6931), 'dice': tensor(0.6667)}
    """

    function = staticmethod(compound)

    def __init__(self, **arguments: Unpack[CompoundArguments]) -> None:
        arguments.setdefault("terms", {})  # which is an error that names the losses
        super().__init__(**arguments)
        self.terms = {}
