"""The forward pass: block by block where no kernel computes it."""

import torch
from torch import Tensor

from .device_rules import (
    accumulation_dtype,
    adds_by_index,
    block_of,
    blocks_of,
    class_index,
    counting_dtype,
    values_may_be_read,
)
from .focal_term import focal_term
from .kernels import kernels_for
from .probabilities import (
    class_probabilities,
    probabilities_of,
    smallest_probability,
    soft_overlap,
    write_probabilities,
)
from .results import Results, Wanted


def pass_forward(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
    wanted: Wanted,
    probabilities: Tensor | None = None,
    whole: bool = False,
) -> Results:
    """The results.

    Given a place `[B, C, S]` for the probabilities, writes them there. What it writes is finite for voxels that are not
    valid, and where there are sums it is 0. With `whole` all is a single block.
    """
    if (kernels := kernels_for(logits, target, wanted.activation)) is not None:
        return Results(*kernels.forward(logits, target, valid, class_factor, voxel_weights, *wanted[1:]))
    dtype = accumulation_dtype(logits.dtype)
    # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
    shape = logits.shape[:2] if wanted.sums else (0,)
    totals = [logits.new_zeros(shape, dtype=counting_dtype(logits.device)) for _ in range(3)]
    losses = logits.new_empty((0,) if wanted.gamma is None else logits.shape[::2], dtype=dtype)
    if probabilities is not None:
        write_probabilities(logits, wanted.activation, probabilities)
    for chunk in blocks_of(logits, target, whole):
        samples, voxels = chunk
        if probabilities is None:
            block = probabilities_of(logits[samples, :, voxels], wanted.activation)
        else:
            block = probabilities[samples, :, voxels]
        chunk_valid = block_of(valid, chunk)
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        at_target, finite = None, False
        if wanted.gamma is not None:
            chunk_logits = logits[samples, :, voxels]
            if index is not None:
                at_target, log_probability, finite = _log_probability(block, chunk_logits, index)
                at_target = at_target if wanted.sums else None  # no memory for what is not needed
                terms = times_class_factor(focal_term(log_probability, wanted.gamma), index, class_factor)
            else:
                truth = weighted_truth(target[samples, :, voxels], chunk_valid, block, class_factor)
                log_probabilities = torch.log_softmax(chunk_logits, 1, dtype=dtype)
                terms = torch.where(truth == 0, 0.0, log_probabilities.mul_(truth)).sum(1, keepdim=True).neg_()
            if chunk_valid is not None and chunk_valid.shape[1] == 1:
                terms = torch.where(chunk_valid, terms, 0.0)
            losses[chunk] = terms.squeeze(1)
        if wanted.sums:
            weights = block_of(voxel_weights, chunk)
            if chunk_valid is not None:
                keeps_others = chunk_valid.shape[1] == 1 or wanted.activation != "softmax"
                block = _zero_invalid(block, chunk_valid, keeps_others and wanted.activation != "none", finite)
            if index is None:
                _add_soft(totals, samples, block, target[samples, :, voxels], chunk_valid, weights, wanted.squared)
            else:
                _add_hard(totals, samples, block, index, chunk_valid, weights, at_target)
            block = block.square() if wanted.squared else block
            totals[1][samples] += (block if weights is None else block * weights).sum(2)
        elif probabilities is not None and chunk_valid is not None and chunk_valid.shape[1] == 1 and not finite:
            block.masked_fill_(~chunk_valid, 0.0)
    overlap, predicted, present = (one.to(dtype) for one in totals)
    return Results(overlap, predicted, present, losses)


def _log_probability(block: Tensor, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The softmax at the target and its logarithm, `[b, 1, s]`, and whether all of the softmax is known as finite."""
    probability = block.gather(1, index)
    smallest = smallest_probability(block.dtype)
    if values_may_be_read(block, validate=False) and bool(probability.amin() >= smallest):
        return probability, probability.log(), True
    # A tiny probability is not exact, and may be 0. The largest one is at least 1 / C.
    log_sum = logits.amax(1, keepdim=True) - block.amax(1, keepdim=True).log()
    exact = logits.gather(1, index).to(block.dtype) - log_sum
    return probability, torch.where(probability < smallest, exact, probability.log()), False


def _zero_invalid(block: Tensor, valid: Tensor, in_place: bool, finite: bool) -> Tensor:
    """The block of probabilities with 0 where not valid."""
    if not in_place:
        return block.masked_fill(~valid, 0.0)
    # Several times as fast as filling, but NaN times 0 is NaN.
    if finite or (values_may_be_read(block, validate=False) and bool(block.sum().isfinite())):
        return block.mul_(valid)
    return block.masked_fill_(~valid, 0.0)


def weighted_truth(target: Tensor, valid: Tensor | None, block: Tensor, class_factor: Tensor | None) -> Tensor:
    """A block of a target of probabilities, each times the factor of its class."""
    truth = class_probabilities(target, valid, block.shape[1], block.dtype)
    return truth if class_factor is None else truth * class_factor[:, None]


def times_class_factor(values: Tensor, index: Tensor, class_factor: Tensor | None) -> Tensor:
    """A block's values, each times the factor of its class; both `[b, 1, s]`."""
    if class_factor is None:
        return values
    return values * class_factor.index_select(0, index.flatten()).view_as(index)


def _add_hard(
    totals: list[Tensor],
    samples: slice,
    block: Tensor,
    index: Tensor,
    valid: Tensor | None,
    weights: Tensor | None,
    at_target: Tensor | None,
) -> None:
    """Add the overlap with, and the number of, class indices; `at_target` are the probabilities there, if known."""
    overlap, _, present = totals
    if adds_by_index(block.device):
        if at_target is None:
            at_target = block.gather(1, index)
        elif valid is not None:
            at_target = torch.where(valid, at_target, 0.0)
        hit = at_target if weights is None else at_target * weights
        counts = overlap.new_ones((1, 1, 1)).expand(index.shape) if weights is None else weights.to(overlap.dtype)
        counts = counts if valid is None else torch.where(valid, counts, 0.0)
        overlap[samples].scatter_add_(1, index.squeeze(1), hit.squeeze(1).to(overlap.dtype))
        present[samples].scatter_add_(1, index.squeeze(1), counts.squeeze(1))
        return
    is_class = index == torch.arange(block.shape[1], device=block.device)[:, None]
    if valid is not None:
        is_class &= valid
    block = block if weights is None else block * weights
    overlap[samples] += torch.where(is_class, block, 0.0).sum(2)
    present[samples] += (is_class if weights is None else is_class * weights).sum(2)


def _add_soft(
    totals: list[Tensor],
    samples: slice,
    block: Tensor,
    target: Tensor,
    valid: Tensor | None,
    weights: Tensor | None,
    squared: bool,
) -> None:
    """Add the overlap with, and the sum of, probabilities."""
    overlap, _, present = totals
    truth = class_probabilities(target, valid, block.shape[1], block.dtype)
    common = soft_overlap(block, truth, squared)
    truth = truth.square() if squared else truth
    overlap[samples] += (common if weights is None else common * weights).sum(2)
    present[samples] += (truth if weights is None else truth * weights).sum(2)
