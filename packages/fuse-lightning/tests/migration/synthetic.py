"""Synthetic data and weights that are the same in every environment."""

from collections.abc import Iterable

import torch
from torch import Tensor


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Values between -1 and 1."""
    angles = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 0.37 + phase
    return torch.cos(angles).reshape(shape).float()


def labels(count: int, classes: int) -> Tensor:
    """Class indices in no simple order."""
    return torch.arange(count) * 7 % 5 % classes


def images(*shape: int, classes: int) -> Tensor:
    """Images that tell their label: `shape` is (samples, channels, ...)."""
    shift = labels(shape[0], classes).reshape(-1, *[1] * (len(shape) - 1))
    return waves(*shape) + 0.5 * shift


def set_weights(parameters: Iterable[Tensor]) -> None:
    """Set parameters, in their order, to small values that are different in all of them."""
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(0.2 * waves(*parameter.shape, phase=1.7 * i))
            if parameter.ndim == 1:
                parameter.add_(0.1)
