"""What the losses of dense predictions share."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypedDict, Unpack, cast

import torch
from torch import Tensor

from fuse_core import read_key

from ._dense.checks import check_tensor
from ._dense.options import DenseLoss, DenseOptions, dense_loss
from ._fused.blocks import counting_dtype
from .loss_base import LossBase, PreprocessFunc


class DenseArguments(TypedDict, total=False):
    """The keyword arguments of every `LossDense` beside its keys and the options of its function."""

    mask_key: str | None
    mask: Tensor | None
    weight: float | None
    preprocess_func: PreprocessFunc | None


@dense_loss()
def _loss_of_ones_own(
    logits: Tensor, target: Tensor, *, mask: Tensor | None = None, **options: Unpack[DenseOptions]
) -> Tensor:
    raise NotImplementedError("A subclass of LossDense defines `loss`.")


class LossDense(LossBase):
    """A loss of a dense prediction, or of a classification, with the options of `DenseOptions`.

    Options are checked once, here, and kept in `options`. Numbers of the classes, such as `class_weights`, are buffers:
    they move with `.to()` and are part of `state_dict()`. `.half()` does not round them; the loss casts them to the
    type that it computes in.

    Args:
        pred: the key of the prediction, `[B, C, *spatial]` with up to three spatial axes.
        target: the key of the ground truth, class indices or probabilities; see `DenseOptions`.
        mask_key: the key of a mask of the voxels that count, `[B, *spatial]` or `[B, 1, *spatial]`.
        mask: such a mask for all batches, `[1, *spatial]`, in place of a key: a region of interest for instance.
        weight: the factor of the result; None is 1.
        preprocess_func: see `LossBase`. A batch filtered to no samples gives zero, connected to the graph.
        **options: those of the function. With `reduction="none"` the loss is no scalar; its shape is the function's.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an option with a value that it does not take, or both `mask` and `mask_key`.
    """

    class_weights: Tensor | None
    mask: Tensor | None
    function: ClassVar[Callable[..., Tensor] | None] = None
    """The loss as a function of tensors, such as `functional.dice_loss`."""

    def __init__(
        self,
        *,
        pred: str,
        target: str,
        mask_key: str | None = None,
        mask: Tensor | None = None,
        weight: float | None = None,
        preprocess_func: PreprocessFunc | None = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        if mask is not None and mask_key is not None:
            raise ValueError(f"{name} takes a mask or a mask_key, got both: {mask_key!r} and a tensor. Leave one out.")
        keys = (pred, target) if mask_key is None else (pred, target, mask_key)
        super().__init__(reads=keys, weight=weight, preprocess_func=preprocess_func)
        self.pred = pred
        self.target = target
        self.mask_key = mask_key
        self.register_buffer("mask", None if mask is None else check_tensor(name, "mask", mask), persistent=False)
        arguments = [*inspect.signature(LossDense.__init__).parameters][1:-1]
        function: Any = self.function or _loss_of_ones_own
        self._loss: DenseLoss = function.dense_loss
        self.options = self._loss.checked(name, options, others=arguments)
        for option in self._loss.numbers:
            numbers = self.options.get(option)
            buffer = None if numbers is None or isinstance(numbers, (str, float, int)) else exact_numbers(numbers)
            self.register_buffer(option, buffer)
        self._owner = f"{name}(pred={pred!r}, target={target!r})"

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """The loss as a function of tensors; `options` are checked."""
        loss: Tensor = self._loss.function(logits, target, mask=mask, owner=self._owner, **options)
        return loss

    def compute(self, batch_dict: Mapping[str, Any]) -> Tensor:
        """The loss before `weight`."""
        name = type(self).__name__
        logits: Tensor = read_key(batch_dict, self.pred, name)
        target: Tensor = read_key(batch_dict, self.target, name)
        mask = self.mask if self.mask_key is None else read_key(batch_dict, self.mask_key, name)
        options = dict(self.options)
        for option in self._loss.numbers:
            if getattr(self, option) is not None:
                options[option] = getattr(self, option)
        return self.loss(logits, target, mask, options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `fn` sees float64 buffers as int64, the same bits: `.half()` leaves integers alone, MPS has no float64, and
        # `share_memory()` and `to_empty()` must reach the buffer itself, so that no copy can be put in its place.
        exact = {name: one for name, one in self._buffers.items() if one is not None and one.dtype == torch.float64}
        for name, one in exact.items():
            self._buffers[name] = one.view(torch.int64)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, one in exact.items():
            moved = cast(Tensor, self._buffers[name])
            dtype = counting_dtype(moved.device)
            uncast = moved.dtype == torch.int64 and dtype == torch.float64
            self._buffers[name] = moved.view(dtype) if uncast else one.to(moved.device, dtype)
        return self


def exact_numbers(numbers: Any) -> Tensor:
    """Numbers given by the caller as a tensor of the module's own, float64 where the device has it."""
    if isinstance(numbers, Tensor):
        return numbers.detach().to(counting_dtype(numbers.device), copy=True)
    return torch.tensor(numbers, dtype=torch.float64)
