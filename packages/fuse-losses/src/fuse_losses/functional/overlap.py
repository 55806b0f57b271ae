"""What Dice, Tversky and generalized Dice share: sums over voxels, classes absent from the target, the reduction."""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from .._dense.inputs import DenseInputs
from .._dense.sum_over_processes import sum_over_processes
from .._fused.block_passes import Wanted
from .._fused.memory_saving_gradient import one_pass
from .._fused.probabilities import by_class
from .._fused.safe_division import divide_or_zero

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
    """The number of valid voxels, or the sum of their weights, for all classes (`[B, 1]` or `[1, 1]`) or each."""


def overlap_sums(inputs: DenseInputs, per_sample: bool, squared: bool = False) -> OverlapSums:
    """The sums over each sample's voxels, or with `per_sample=False` over those of the batch."""
    logits, target, valid, weights = inputs.logits, inputs.target, inputs.valid, inputs.voxel_weights
    results = inputs.results
    if results is None:
        wanted = Wanted(inputs.settings.activation, sums=True, squared=squared)
        results = one_pass(logits, target, valid, wanted, voxel_weights=weights)
    overlap, predicted, present, _ = results
    sums = OverlapSums(overlap, predicted, present, _voxels(inputs, present))
    if per_sample:
        return sums
    sums = OverlapSums(*(one.sum(0, keepdim=True) for one in sums))
    return OverlapSums(*map(sum_over_processes, sums)) if inputs.settings.across_processes else sums


def _voxels(inputs: DenseInputs, like: Tensor) -> Tensor:
    """The number of valid voxels, or the sum of their weights, `[B, 1]` or `[B, C]`."""
    valid, weights = inputs.valid, inputs.voxel_weights
    if valid is None and weights is None:
        return torch.full_like(like[:, :1], inputs.logits.shape[2])
    if valid is None:
        return cast(Tensor, weights).sum(1, keepdim=True).to(like.dtype)
    valid = by_class(valid)
    return (valid if weights is None else valid * weights[:, None]).sum(2).to(like.dtype)


def fill_absent(index: Tensor, sums: OverlapSums, empty: Empty) -> tuple[Tensor, Tensor]:
    """Replace the index of overlap of the classes that the target does not hold.

    Returns:
        The index, 1 for an absent class, or for `"penalize"` 1 minus its mean probability; and which classes count,
        bool: never those without a valid voxel.
    """
    absent = sums.present == 0
    if empty == "skip":
        return torch.where(absent, 1.0, index), ~absent
    instead = 1 - divide_or_zero(sums.predicted, sums.voxels) if empty == "penalize" else 1.0
    return torch.where(absent, instead, index), (sums.voxels > 0).expand_as(index)


def annotated_classes(inputs: DenseInputs, per_sample: bool) -> Tensor:
    """Which classes were annotated in each sample, or anywhere in the batch, bool `[B, C]` or `[1, C]`."""
    annotated = cast(Tensor, inputs.annotated)
    if per_sample:
        return annotated
    anywhere = annotated.any(0, keepdim=True)
    return sum_over_processes(anywhere.float()) > 0 if inputs.settings.across_processes else anywhere


def reduce_classes(losses: Tensor, counted: Tensor, inputs: DenseInputs, per_sample: bool) -> Tensor:
    """Weight and reduce the losses `[B, C]` of the classes; those that do not count are left out."""
    settings = inputs.settings
    weights = torch.ones_like(losses) if inputs.class_weights is None else inputs.class_weights.expand_as(losses)
    if inputs.annotated is not None:
        counted = counted & annotated_classes(inputs, per_sample)
    weights = torch.where(counted, weights, 0.0)
    weighted = losses * weights
    if settings.reduction == "none":
        return weighted if per_sample else weighted.squeeze(0)
    total, divisor = weighted.sum(), weights.sum()
    if settings.across_processes and per_sample:  # sums over the batch are sums over the processes already
        total, divisor = sum_over_processes(total), sum_over_processes(divisor)
    if settings.reduction == "sum":
        return total
    inputs.record("counted", divisor)
    return total / torch.where(divisor == 0, 1.0, divisor)
