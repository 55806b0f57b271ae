"""The focal loss of one log-probability, and its slope."""

import torch
from torch import Tensor


def focal_term(log_probability: Tensor, gamma: float) -> Tensor:
    r"""$-(1 - p)^\gamma \log p$ of $\log p$, elementwise.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4.

    With `gamma` 0 this is $-\log p$, to the bit. Its gradient is finite everywhere: for `gamma` below 1, where
    $(1 - p)^{\gamma - 1}$ grows without bound as p nears 1, the factor $\log p$ shrinks as fast.

    Example:
        >>> focal_term(torch.tensor([0.25, 0.5, 1.0]).log(), gamma=2.0)
        tensor([0.7798, 0.1733, -0.0000])
    """
    if gamma == 0:
        return -log_probability
    return -_one_minus_exp(log_probability).pow(gamma) * log_probability


def focal_term_slope(log_probability: Tensor, gamma: float) -> Tensor:
    r"""The derivative of `focal_term` by $-\log p$: $(1 - p)^\gamma - \gamma\, p\, (1 - p)^{\gamma - 1} \log p$."""
    if gamma == 0:
        return torch.ones_like(log_probability)
    rest = _one_minus_exp(log_probability)
    finite = log_probability.clamp(min=torch.finfo(log_probability.dtype).min)  # infinity times a p of 0 would be NaN
    return rest.pow(gamma) - finite * finite.exp() * gamma * rest.pow(gamma - 1)


def _one_minus_exp(log_probability: Tensor) -> Tensor:
    # Not 0, so that a negative power stays finite; the logarithm that it multiplies is 0 there.
    return torch.expm1(log_probability).neg().clamp(min=torch.finfo(log_probability.dtype).tiny)
