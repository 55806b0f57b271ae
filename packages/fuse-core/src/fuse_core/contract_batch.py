"""Batches of any size, made from the spec that `check_contract` takes, and the shapes of tensors as text."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Number
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .collate import number_of_samples
from .indexing import has_batch_axis, take
from .ndict import NDict

Shape: TypeAlias = tuple[int | str, ...]
SIZES = (6, 14)  # batch sizes without a real batch: even, and unlikely as a number of classes or channels


@dataclass(frozen=True)
class TensorSpec:
    """The shape, dtype and device of a tensor in a batch; None stands for the batch axis.

    Raises:
        ValueError: an axis of `shape` is neither a size nor None.
        TypeError: `dtype` is no `torch.dtype`.

    Example:
        >>> TensorSpec((None, 1, 32, 32))
        TensorSpec(shape=(None, 1, 32, 32), dtype=torch.float32, device='cpu')
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if not all(axis is None or (isinstance(axis, Integral) and axis >= 0) for axis in self.shape):
            shape = tuple(self.shape)
            raise ValueError(f"TensorSpec(shape=) holds each axis' size, and None for the batch axis, got {shape}.")
        if not isinstance(self.dtype, torch.dtype):
            raise TypeError(f"TensorSpec(dtype=) takes a torch.dtype such as torch.float32, got {self.dtype!r}.")


_SINGLE = (str, bytes, Number, TensorSpec, type(None))


def make_batch(spec: NDict, make: Callable[..., Tensor], size: int) -> NDict:
    """A batch of `size` samples: tensors made from specs, and the samples of real values, repeated."""
    count = _count(spec)
    batch = NDict()
    for key, value in spec.items():
        if _holds_samples(value, count):
            if isinstance(value, Tensor) and make is torch.empty:
                value = TensorSpec((None, *value.shape[1:]), value.dtype, value.device)
            else:
                value = take(value, [position % count for position in range(size)])
        if isinstance(value, TensorSpec):
            make_values = make if value.dtype.is_floating_point else torch.zeros
            shape = [size if axis is None else axis for axis in value.shape]
            value = make_values(shape, dtype=value.dtype, device=value.device)
        batch[key] = value
    return batch


def batch_sizes(spec: NDict) -> tuple[int, int]:
    """The two batch sizes; see `check_contract`."""
    count = _count(spec)
    if not count:
        shapes = [value.shape for value in spec.values() if isinstance(value, TensorSpec)]
        fixed = next((axis for shape in shapes for axis in shape), None)  # such as the nodes of a graph
        return SIZES if fixed is None or any(None in shape for shape in shapes) else (fixed, fixed)
    for value in spec.values():
        is_single = isinstance(value, _SINGLE) or getattr(value, "ndim", None) == 0
        is_square = is_dense(value) and value.shape == (count, count)  # pairs of samples
        if is_square or not (is_single or _holds_samples(value, count)):
            return count, count
    return count, count if count == 1 else 2 * count


def _count(spec: NDict) -> int:
    """The number of samples of a real batch; 0 if all is specs."""
    return number_of_samples({key: value for key, value in spec.items() if _has_length(value)}) or 0


def _has_length(value: Any) -> bool:
    return (is_dense(value) or not isinstance(value, Tensor)) and has_batch_axis(value)


def _holds_samples(value: Any, count: int) -> bool:
    return count > 0 and _has_length(value) and len(value) == count


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor, and neither sparse nor nested: torch refuses the shape of some, or to index them."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def common_shape(one: Any, other: Any, size: int | None, other_size: int | None) -> Shape | None:
    """The shape of a tensor with both batch sizes: B for the batch size, `?` for an axis that follows another rule."""
    if not all(isinstance(value, Tensor) and not value.is_nested for value in (one, other)):
        return None
    if one.ndim != other.ndim:
        return ("?",)
    return tuple(
        "B" if (a, b) == (size, other_size) and (a != b or axis == 0) else a if a == b else "?"
        for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True))
    )


def shape_text(shape: Shape | None) -> str:
    """A shape as text, such as `(B, 3)`; nothing for what is no tensor."""
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def described(value: Any, size: int | None) -> str:
    """A tensor's shape and dtype, or the type of another value."""
    shape = common_shape(value, value, size, size)
    return type(value).__name__ if shape is None else f"{shape_text(shape)} {str(value.dtype).removeprefix('torch.')}"
