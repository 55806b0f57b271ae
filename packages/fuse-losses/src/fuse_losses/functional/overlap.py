"""What Dice, Tversky and generalized Dice share: sums over voxels, classes absent from the target, the reduction."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .._dense.inputs import DenseInputs
from .._fused.one_pass import Wanted, one_pass

Empty = Literal["skip", "zero", "penalize"]


class OverlapSums(NamedTuple):
    """Sums over the valid voxels of each sample, for each class: `[B, C]`, or `[1, C]` over the whole batch."""

    overlap: Tensor
    """Of probability times target: the true positives."""
    predicted: Tensor
    """Of the probabilities, squared if asked: true and false positives."""
    present: Tensor
    """Of the target, squared if asked: true positives and false negatives."""
    voxels: Tensor
    """The number of valid voxels, `[B, 1]` or `[1, 1]`."""


def overlap_sums(inputs: DenseInputs, per_sample: bool, squared: bool = False) -> OverlapSums:
    """The sums over each sample's voxels, or with `per_sample=False` over those of the batch."""
    logits, target, valid = inputs.logits, inputs.target, inputs.valid
    wanted = Wanted(inputs.settings.activation, sums=True, squared=squared)
    overlap, predicted, present, _ = one_pass(logits, target, valid, wanted)
    if valid is None:
        voxels = torch.full_like(present[:, :1], logits.shape[2])
    else:
        voxels = valid.sum(1, keepdim=True).to(present.dtype)
    sums = OverlapSums(overlap, predicted, present, voxels)
    return sums if per_sample else OverlapSums(*(one.sum(0, keepdim=True) for one in sums))


def fill_absent(index: Tensor, sums: OverlapSums, empty: Empty) -> tuple[Tensor, Tensor | None]:
    """Replace the index of overlap of the classes that the target does not hold.

    Returns:
        The index, 1 for an absent class, or for `"penalize"` 1 minus its mean probability; and which classes count,
        bool, or None for all.
    """
    absent = sums.present == 0
    if empty == "penalize":
        return torch.where(absent, 1 - sums.predicted / sums.voxels.clamp(min=1), index), None
    return torch.where(absent, 1.0, index), ~absent if empty == "skip" else None


def reduce_classes(losses: Tensor, counted: Tensor | None, inputs: DenseInputs, per_sample: bool) -> Tensor:
    """Weight and reduce the losses `[B, C]` of the classes; those that do not count are left out."""
    weights = torch.ones_like(losses) if inputs.class_weights is None else inputs.class_weights.expand_as(losses)
    if counted is not None:
        weights = torch.where(counted, weights, 0.0)
    weighted = losses * weights
    reduction = inputs.settings.reduction
    if reduction == "none":
        return weighted if per_sample else weighted.squeeze(0)
    total = weighted.sum()
    if reduction == "sum":
        return total
    divisor = weights.sum()
    return total / torch.where(divisor == 0, 1.0, divisor)
