"""Any loss function of a prediction and a target, over a batch_dict."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .loss_base import LossBase, PreprocessFunc, connected_zero, hand_on, how_much_counts, tensors_of


class LossDefault(LossBase):
    """`weight * callable(prediction, target)`, both taken from the batch_dict.

    Args:
        pred: the key of the prediction.
        target: the key of the ground truth.
        callable: a function or module, such as `torch.nn.functional.cross_entropy`, called with prediction and target,
            that returns a scalar tensor. A module's parameters and buffers become this module's.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.

    Raises:
        NestedKeyError: the batch_dict lacks a key.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> loss = LossDefault(
        ...     pred="model.logits.cls",
        ...     target="data.label",
        ...     callable=torch.nn.functional.cross_entropy,
        ...     weight=2.0,
        ... )
        >>> loss(NDict({"model.logits.cls": torch.zeros(3, 4), "data.label": torch.tensor([0, 1, 2])}))
        tensor(2.7726)
    """

    def __init__(
        self,
        *,
        pred: str,
        target: str,
        callable: nn.Module | Callable[..., Tensor],  # noqa: A002  the name users know from FuseMedML
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
    ) -> None:
        super().__init__(reads=(pred, target), weight=weight, preprocess_func=preprocess_func)
        if isinstance(callable, type) or not hasattr(callable, "__call__"):  # noqa: B004  the argument hides the builtin
            hint = f" Give {callable.__name__}(...)." if isinstance(callable, type) else ""
            raise TypeError(f"LossDefault(callable=) takes a function or a module, got {callable!r}.{hint}")
        self.pred = pred
        self.target = target
        self.callable = callable

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        pred, target = batch_dict[self.pred], batch_dict[self.target]
        predictions = tensors_of(pred)  # several of them for a loss with deep supervision
        if predictions and all(one.shape[:1] == (0,) for one in predictions):  # a mean over no samples would be NaN
            self.counted = 0
            return connected_zero(predictions)
        try:
            loss = self.callable(pred, target)
        except Exception as error:
            error.add_note(f"Raised in {type(self).__name__}(pred={self.pred!r}, target={self.target!r}).")
            raise
        if hasattr(self.callable, "counted"):
            hand_on(self, self.callable)
        else:
            self.counted = how_much_counts(self.callable, predictions[0], target) if predictions else None
        return loss
