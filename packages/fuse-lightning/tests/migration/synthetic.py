"""Synthetic data and weights that are the same in every environment."""

from collections.abc import Iterable

import torch
from torch import Tensor


def scattered(*shape: int, seed: int = 0) -> Tensor:
    """Values between -1 and 1 without a pattern, the same with each version of torch: a hash of their positions."""
    bits = 2**32 - 1
    values = (torch.arange(torch.Size(shape).numel()) + 7919 * (seed + 1)) * 1640531527 & bits
    for shift in (15, 13):
        values = (values ^ (values >> shift)) * 1103515245 & bits
    return (values.double() / 2**31 - 1).reshape(shape).float()


def labels(count: int, classes: int) -> Tensor:
    """Class indices in no simple order."""
    return torch.arange(count) * 7 % 5 % classes


def images(*shape: int, classes: int) -> Tensor:
    """Images that tell their label: `shape` is (samples, channels, ...)."""
    shift = labels(shape[0], classes).reshape(-1, *[1] * (len(shape) - 1))
    return scattered(*shape) + 0.5 * shift


def set_weights(parameters: Iterable[Tensor]) -> None:
    """Set parameters, in their order: matrices and kernels to values of the usual size, vectors to values near 0.5."""
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            values = scattered(*parameter.shape, seed=i)
            is_vector = parameter.ndim == 1
            fan_in = parameter[0].numel()
            parameter.copy_(0.5 + 0.3 * values if is_vector else values * (3 / fan_in) ** 0.5)
