"""Focal loss over a batch_dict."""

from typing import Any

from torch import Tensor

from .dense_options import DenseOptions
from .focal import Alpha, check_focal, focal_loss
from .loss_dense import LossDense, numbers_buffer


class LossFocal(LossDense):
    """`functional.focal_loss` of a prediction and a target of the batch_dict.

    It serves classifications (`[B, C]` and `[B]`) as well.

    Args:
        gamma: how strongly well-classified voxels are played down; at least 0.
        alpha: a factor, or one for each class (then it is a buffer); in the sigmoid form, that of the positives.
        **arguments: those of `LossDense`.

    Example:
        >>> import torch
        >>> loss = LossFocal(pred="model.logits.cls", target="data.label", gamma=2.0)
        >>> loss({"model.logits.cls": torch.zeros(2, 2), "data.label": torch.tensor([0, 1])})
        tensor(0.1733)
    """

    alpha: Tensor | None

    def __init__(self, *, gamma: float = 2.0, alpha: Alpha | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_focal(gamma, alpha, self.settings, "LossFocal")
        self.gamma = gamma
        self.scalar_alpha = alpha if isinstance(alpha, (int, float)) else None
        self.register_buffer("alpha", numbers_buffer(alpha))

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""
        alpha = self.scalar_alpha if self.alpha is None else self.alpha
        return focal_loss(logits, target, gamma=self.gamma, alpha=alpha, mask=mask, **options)
