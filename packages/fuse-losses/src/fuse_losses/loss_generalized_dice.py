"""Generalized Dice loss over a batch_dict."""

from typing import Any

from torch import Tensor

from .dense_options import DenseOptions
from .generalized_dice import EmptyClass, VolumeWeights, check_generalized_dice, generalized_dice_loss
from .loss_dense import LossDense


class LossGeneralizedDice(LossDense):
    """`functional.generalized_dice_loss` of a prediction and a target of the batch_dict.

    Args:
        volume_weights: `"square"`, `"simple"` or `"uniform"`: the power of a class's volume that its overlap is divided
            by.
        smooth_numerator: added to the numerator.
        smooth_denominator: added to the denominator.
        per_sample: sums over each sample; False is over the whole batch.
        empty: the weight of a class absent from the target: `"skip"` or `"penalize"`.
        **arguments: those of `LossDense`.

    Example:
        >>> import torch
        >>> loss = LossGeneralizedDice(pred="model.logits.seg", target="data.seg")
        >>> loss({"model.logits.seg": torch.zeros(1, 2, 4), "data.seg": torch.tensor([[0, 0, 0, 1]])})
        tensor(0.6250)
    """

    def __init__(
        self,
        *,
        volume_weights: VolumeWeights = "square",
        smooth_numerator: float = 0.0,
        smooth_denominator: float = 0.0,
        per_sample: bool = True,
        empty: EmptyClass = "skip",
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        check_generalized_dice(
            "LossGeneralizedDice", volume_weights, smooth_numerator, smooth_denominator, per_sample, empty
        )
        self.volume_weights = volume_weights
        self.smooth_numerator = smooth_numerator
        self.smooth_denominator = smooth_denominator
        self.per_sample = per_sample
        self.empty = empty

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""
        return generalized_dice_loss(
            logits,
            target,
            volume_weights=self.volume_weights,
            smooth_numerator=self.smooth_numerator,
            smooth_denominator=self.smooth_denominator,
            per_sample=self.per_sample,
            empty=self.empty,
            mask=mask,
            **options,
        )
