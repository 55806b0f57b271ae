"""Tversky loss over a batch_dict."""

from typing import Any

from torch import Tensor

from .dense_options import DenseOptions
from .loss_dense import LossDense
from .tversky import Empty, OverlapOptions, check_overlap, check_tversky, tversky_loss


class LossTversky(LossDense):
    """`functional.tversky_loss` of a prediction and a target of the batch_dict.

    Args:
        alpha: the price of false positives; at least 0.
        beta: the price of false negatives; at least 0.
        gamma: the exponent of the focal Tversky loss; at least 0.
        smooth_numerator: added to the numerator.
        smooth_denominator: added to the denominator.
        per_sample: sums over each sample; False is over the whole batch.
        empty: what a class absent from the target contributes: `"skip"`, `"zero"` or `"penalize"`.
        **arguments: those of `LossDense`.

    Example:
        >>> import torch
        >>> loss = LossTversky(
        ...     pred="model.logits.seg", target="data.seg", alpha=0.3, beta=0.7, include_background=False
        ... )
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6154)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        smooth_numerator: float = 0.0,
        smooth_denominator: float = 0.0,
        per_sample: bool = True,
        empty: Empty = "skip",
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        overlap = OverlapOptions(smooth_numerator, smooth_denominator, per_sample, empty)
        check_tversky("LossTversky", alpha, beta, gamma)
        check_overlap("LossTversky", overlap)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.overlap = overlap

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""
        return tversky_loss(
            logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            smooth_numerator=self.overlap.smooth_numerator,
            smooth_denominator=self.overlap.smooth_denominator,
            per_sample=self.overlap.per_sample,
            empty=self.overlap.empty,
            mask=mask,
            **options,
        )
