"""Batching of tensors of different sizes, by padding them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor


def pad_to_largest(value: float = 0.0, min_size: Sequence[int] | None = None) -> Callable[[list[Tensor]], Tensor]:
    """Make a function for `Collate(per_key=)` that pads tensors at their ends to the largest size and stacks them.

    Args:
        value: the value of the padding.
        min_size: the smallest size of each axis after padding, one entry per axis.

    Returns:
        A function of tensors or arrays of one rank and dtype. It returns a tensor `[B, *largest size]`.

    Example:
        >>> pad_to_largest(value=-1)([torch.tensor([1, 2, 3]), torch.tensor([4])])
        tensor([[ 1,  2,  3],
                [ 4, -1, -1]])
    """
    return partial(_pad_and_stack, value=value, min_size=None if min_size is None else tuple(min_size))


def _pad_and_stack(values: list[Tensor], value: float, min_size: tuple[int, ...] | None) -> Tensor:
    tensors = [torch.as_tensor(one) for one in values]
    if len({(tensor.ndim, tensor.dtype) for tensor in tensors}) > 1:
        found = sorted({f"rank {tensor.ndim} {tensor.dtype}" for tensor in tensors})
        raise ValueError(f"pad_to_largest needs tensors of one rank and dtype, got {', '.join(found)}.")
    rank = tensors[0].ndim
    if min_size is not None and len(min_size) != rank:
        raise ValueError(f"pad_to_largest(min_size=) needs one entry an axis: {rank}, got {min_size}.")
    smallest = min_size or (0,) * rank
    size = [max(smallest[axis], *(tensor.shape[axis] for tensor in tensors)) for axis in range(rank)]
    batch = tensors[0].new_full((len(tensors), *size), value)
    for row, tensor in zip(batch, tensors, strict=True):
        row[tuple(slice(length) for length in tensor.shape)] = tensor
    return batch
