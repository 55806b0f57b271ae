"""Divisions and powers whose values and gradients are finite where the textbook's are not."""

import torch
from torch import Tensor


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 with a gradient of 0 where the denominator is 0.

    Example:
        >>> divide_or_zero(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    divisible = denominator != 0
    quotient = numerator / torch.where(divisible, denominator, 1)
    return torch.where(divisible, quotient, 0.0)


def finite_power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent` of a base of at least 0; below the type's epsilon a straight line to 0, whose slope is finite.

    A base below 0, which is one by rounding or by smoothing, counts as 0.

    Example:
        >>> finite_power(torch.tensor([0.0, 0.25]), 0.5)
        tensor([0.0000, 0.5000])
    """
    base = base.clamp(min=0)
    if exponent == 1:
        return base
    if exponent == 0:
        return base * 0 + 1
    epsilon = torch.finfo(base.dtype).eps
    line = base * epsilon ** (exponent - 1)
    return torch.where(base < epsilon, line, base.clamp(min=epsilon).pow(exponent))
