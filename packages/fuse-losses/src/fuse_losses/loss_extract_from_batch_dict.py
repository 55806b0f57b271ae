"""A loss that the model computed itself."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .loss_base import LossBase, PreprocessFunc


class LossExtractFromBatchDict(LossBase):
    """`weight * batch_dict[key]`, for a loss that a model wrote into the batch_dict.

    Args:
        key: the key of the loss, a tensor of one element.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`.

    Raises:
        NestedKeyError: the batch_dict lacks the key.
        TypeError: the key holds no tensor.
        ValueError: the tensor has more or fewer elements than one.

    Example:
        >>> import torch
        >>> LossExtractFromBatchDict(key="model.kl", weight=0.1)({"model.kl": torch.tensor(2.0)})
        tensor(0.2000)
    """

    def __init__(self, key: str, weight: float | None = None, *, preprocess_func: PreprocessFunc | None = None) -> None:
        super().__init__(reads=(key,), weight=weight, preprocess_func=preprocess_func)
        self.key = key

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        loss = batch_dict[self.key]
        if not isinstance(loss, Tensor):
            raise TypeError(f"LossExtractFromBatchDict takes a tensor at {self.key!r}, got {type(loss).__name__}.")
        if loss.numel() != 1:
            raise ValueError(
                f"LossExtractFromBatchDict takes one number at {self.key!r}, got shape {tuple(loss.shape)}. Let the"
                " model write the mean or the sum."
            )
        return loss.reshape(())
