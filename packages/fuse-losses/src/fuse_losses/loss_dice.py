"""Dice loss over a batch_dict."""

from typing import Any

from torch import Tensor

from .dense_options import DenseOptions
from .dice import check_dice, dice_loss
from .loss_dense import LossDense
from .tversky import Empty, OverlapOptions


class LossDice(LossDense):
    """`functional.dice_loss` of a prediction and a target of the batch_dict.

    Args:
        smooth_numerator: added to the numerator.
        smooth_denominator: added to the denominator.
        squared: squares in the denominator.
        jaccard: the Jaccard index in place of Dice.
        log: minus the logarithm of the overlap, not one minus it.
        per_sample: sums over each sample; False is over the whole batch.
        empty: what a class absent from the target contributes: `"skip"`, `"zero"` or `"penalize"`.
        **arguments: those of `LossDense`.

    Example:
        >>> import torch
        >>> loss = LossDice(pred="model.logits.seg", target="data.seg", include_background=False)
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6667)
    """

    def __init__(
        self,
        *,
        smooth_numerator: float = 0.0,
        smooth_denominator: float = 0.0,
        squared: bool = False,
        jaccard: bool = False,
        log: bool = False,
        per_sample: bool = True,
        empty: Empty = "skip",
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        overlap = OverlapOptions(smooth_numerator, smooth_denominator, per_sample, empty)
        check_dice("LossDice", overlap, squared=squared, jaccard=jaccard, log=log)
        self.overlap = overlap
        self.squared = squared
        self.jaccard = jaccard
        self.log = log

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""
        return dice_loss(
            logits,
            target,
            smooth_numerator=self.overlap.smooth_numerator,
            smooth_denominator=self.overlap.smooth_denominator,
            squared=self.squared,
            jaccard=self.jaccard,
            log=self.log,
            per_sample=self.overlap.per_sample,
            empty=self.overlap.empty,
            mask=mask,
            **options,
        )
