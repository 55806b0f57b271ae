"""Stacking of the samples' tensors, with padding if their sizes differ."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .indexing import stack


def pad_to_largest(value: float = 0.0, min_size: Sequence[int] | None = None) -> Callable[[list[Any]], Any]:
    """Make a function for `Collate(per_key=)` that pads tensors at their ends to the largest size and stacks them.

    Args:
        value: the value of the padding.
        min_size: the smallest size of each axis after padding, one entry per axis.

    Returns:
        A function of tensors or arrays of one rank and dtype. It returns a tensor `[B, *largest size]`. If some values
        are None, for `Collate(missing="none")`, it returns the list of values.

    Example:
        >>> pad_to_largest(value=-1)([torch.tensor([1, 2, 3]), torch.tensor([4])])
        tensor([[ 1,  2,  3],
                [ 4, -1, -1]])
    """
    return partial(_pad_and_stack, value=value, min_size=None if min_size is None else tuple(min_size))


def _pad_and_stack(values: list[Any], value: float, min_size: tuple[int, ...] | None) -> Any:
    if any(one is None for one in values):
        return values
    tensors = [_as_tensor(one) for one in values]
    if len({(tensor.ndim, tensor.dtype) for tensor in tensors}) > 1:
        found = sorted({f"rank {tensor.ndim} {tensor.dtype}" for tensor in tensors})
        raise ValueError(f"pad_to_largest needs tensors of one rank and dtype, got {', '.join(found)}.")
    rank, dtype = tensors[0].ndim, tensors[0].dtype
    if not _is_value_of(dtype, value):  # also if nothing is padded in this batch: it will be in another one
        raise ValueError(
            f"pad_to_largest(value={value}) is not a value of {dtype}. Give one that is, or convert the tensors in the "
            "dataset."
        )
    if min_size is not None and len(min_size) != rank:
        raise ValueError(f"pad_to_largest(min_size=) needs one entry per axis: {rank}, got {min_size}.")
    smallest = min_size or (0,) * rank
    size = [max(smallest[axis], *(tensor.shape[axis] for tensor in tensors)) for axis in range(rank)]
    return stack([_padded(tensor, size, value) for tensor in tensors])


def _is_value_of(dtype: torch.dtype, value: float) -> bool:
    if dtype.is_floating_point or dtype.is_complex:
        return True
    if dtype == torch.bool:
        return value in (0, 1)
    limits = torch.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _as_tensor(value: Any) -> Tensor:
    try:
        if np.ma.is_masked(value):
            raise TypeError("a tensor has no mask. Fill the masked entries first.")
        if isinstance(value, np.ndarray):  # a flipped array has negative strides, and one from a file may be big-endian
            value = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        tensor = torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"pad_to_largest pads tensors and arrays, got a {type(value).__name__}: {error}") from error
    if tensor.is_nested or tensor.layout != torch.strided:
        raise TypeError(f"pad_to_largest pads dense tensors, got a {'nested' if tensor.is_nested else 'sparse'} one.")
    return tensor


def _padded(tensor: Tensor, size: list[int], value: float) -> Tensor:
    missing = [new - old for new, old in zip(size, tensor.shape, strict=True)]
    return F.pad(tensor, [amount for axis in reversed(missing) for amount in (0, axis)], value=value)
