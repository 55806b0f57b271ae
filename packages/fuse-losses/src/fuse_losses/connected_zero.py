"""A zero that backward passes can start from."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def connected_zero(tensors: Iterable[Any]) -> Tensor:
    """The scalar 0 as a function of the tensors that require a gradient, which is 0 for all of them.

    Whatever they hold, infinite or NaN, is not looked at.

    Args:
        tensors: values of any type; those that are no floating-point tensors are left out.

    Returns:
        A scalar of the first tensor's device, or the CPU, and of its type but at least float32.

    Example:
        >>> weight = torch.tensor([float("inf")], requires_grad=True)
        >>> connected_zero([weight]).backward()
        >>> weight.grad
        tensor([0.])
    """
    floating = [one for one in tensors if isinstance(one, Tensor) and one.is_floating_point()]
    connected = [
        (one.narrow(0, 0, 0) if one.ndim else one.reshape(1)[:0]).sum() for one in floating if one.requires_grad
    ]
    if not connected:
        zero = floating[0].new_zeros(()) if floating else torch.zeros(())
        return zero.to(torch.promote_types(zero.dtype, torch.float32))
    total = connected[0].to(torch.promote_types(connected[0].dtype, torch.float32))
    for one in connected[1:]:
        total = total + one.to(total.device, total.dtype)
    return total


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a batch_dict, or of one of its values, those within dictionaries, lists and tuples included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    return [tensor for one in value for tensor in tensors_of(one)]
