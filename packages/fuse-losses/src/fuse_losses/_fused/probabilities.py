"""Probabilities of logits `[B, C, S]` and of targets, where voxels may be left out."""

from typing import Literal

import torch
from torch import Tensor

from .device_rules import accumulation_dtype

Activation = Literal["softmax", "sigmoid", "none"]


def probabilities_of(logits: Tensor, activation: Activation) -> Tensor:
    """The probabilities of logits `[B, C, S]`, in at least float32."""
    dtype = accumulation_dtype(logits.dtype)
    if activation == "softmax":
        return torch.softmax(logits, dim=1, dtype=dtype)
    return logits.to(dtype).sigmoid() if activation == "sigmoid" else logits.to(dtype)


def class_probabilities(target: Tensor, valid: Tensor | None, classes: int, dtype: torch.dtype) -> Tensor:
    """A target `[B, S]` or `[B, C, S]` as probabilities `[B, C, S]`, 0 where not valid."""
    if target.ndim == 2:
        target = target[:, None] == torch.arange(classes, device=target.device)[:, None]
    target = target.to(dtype)
    return target if valid is None else torch.where(by_class(valid), target, 0.0)


def zero_where_invalid(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Logits `[B, C, S]` with 0 where not valid: a gradient of 0 would not stay 0 through NaN or infinity there."""
    return logits if valid is None else torch.where(by_class(valid), logits, 0.0)


def by_class(voxels: Tensor) -> Tensor:
    """`[B, S]` or `[B, C, S]` as `[B, 1, S]` or `[B, C, S]`."""
    return voxels[:, None] if voxels.ndim == 2 else voxels


def soft_overlap(probabilities: Tensor, truth: Tensor, squared: bool) -> Tensor:
    r"""The overlap of two probabilities.

    It is $(p + y - |p - y|) / 2$, the smaller of the two (Wang et al. 2023, "Jaccard Metric Losses: Optimizing the
    Jaccard Index with Soft Labels", eq. 5), so that Dice and its relatives are perfect at p = y for a soft y too. For a
    y of 0 or 1 it is the product. With squares in the denominator the product is right for every y.
    """
    return probabilities * truth if squared else torch.minimum(probabilities, truth)


def soft_overlap_slope(probabilities: Tensor, truth: Tensor, squared: bool) -> Tensor:
    """The derivative of `soft_overlap` by the probabilities; where they are equal, that of the product."""
    if squared:
        return truth
    return torch.where(probabilities == truth, truth, (probabilities < truth).to(truth.dtype))
