"""What the losses of dense predictions share."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor

from fuse_core import read_key

from .accumulation_dtype import counting_dtype
from .dense_options import DenseOptions, dense_settings
from .loss_base import LossBase, PreprocessFunc


class LossDense(LossBase):
    """A loss of a dense prediction, or of a classification, with the options of `DenseOptions`.

    Numeric `class_weights` are a buffer: they move with `.to()` and are part of `state_dict()`. They stay as exact as
    they were given, through `.half()` too; the loss casts them to the type that it computes in.

    Args:
        pred: the key of the prediction, `[B, C, *spatial]` with up to three spatial axes.
        target: the key of the ground truth, class indices or probabilities; see `DenseOptions`.
        mask_key: the key of a mask of the voxels that count, `[B, *spatial]` or `[B, 1, *spatial]`.
        mask: such a mask for all batches, `[1, *spatial]`, in place of a key: a region of interest for instance.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.
        **options: see `DenseOptions`. With `reduction="none"` the loss is no scalar; its shape is the function's.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an option with a value that it does not take, or both `mask` and `mask_key`.
    """

    class_weights: Tensor | None
    mask: Tensor | None

    def __init__(
        self,
        *,
        pred: str,
        target: str,
        mask_key: str | None = None,
        mask: Tensor | None = None,
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
        **options: Unpack[DenseOptions],
    ) -> None:
        name = type(self).__name__
        settings = dense_settings(name, options)
        if mask is not None and mask_key is not None:
            raise ValueError(f"{name} takes a mask or a mask_key, got both: {mask_key!r} and a tensor. Leave one out.")
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"{name}(mask=) takes a tensor, got {mask!r}. Use torch.tensor(...).")
        reads = (pred, target) if mask_key is None else (pred, target, mask_key)
        super().__init__(reads=reads, weight=weight, preprocess_func=preprocess_func)
        self.pred = pred
        self.target = target
        self.mask_key = mask_key
        self.settings = settings
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("class_weights", numbers_buffer(settings.class_weights))

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: DenseOptions) -> Tensor:
        """The loss as a function of tensors."""

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        name = type(self).__name__
        logits: Tensor = read_key(batch_dict, self.pred, name)
        target: Tensor = read_key(batch_dict, self.target, name)
        mask = self.mask if self.mask_key is None else read_key(batch_dict, self.mask_key, name)
        settings = self.settings
        options: DenseOptions = {
            "activation": settings.activation,
            "class_weights": settings.class_weights if self.class_weights is None else self.class_weights,
            "ignore_index": settings.ignore_index,
            "ignore_classes": settings.ignore_classes,  # the background is one of them if it is not to count
            "reduction": settings.reduction,
            "resize_mode": settings.resize_mode,
            "validate": settings.validate,
        }
        return self.loss(logits, target, mask, options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = {name: one for name, one in self._buffers.items() if one is not None and one.dtype == torch.float64}
        for name, one in exact.items():
            self._buffers[name] = one.view(torch.int64)  # the same bits, which `.half()` and `.to(dtype)` leave alone
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, one in exact.items():
            moved = cast(Tensor, self._buffers[name])
            dtype = counting_dtype(moved.device)
            uncast = moved.dtype == torch.int64 and dtype == torch.float64
            self._buffers[name] = moved.view(dtype) if uncast else one.to(moved.device, dtype)
        return self


def numbers_buffer(numbers: Any) -> Tensor | None:
    """Numbers given by the caller as a tensor of the module's own; None for what is no sequence of numbers."""
    if isinstance(numbers, Tensor):
        return numbers.detach().to(counting_dtype(numbers.device), copy=True)
    if numbers is None or isinstance(numbers, (str, int, float)):
        return None
    return torch.tensor(list(numbers), dtype=torch.float64)
