"""The forward and the backward pass over the logits, block by block where no Triton kernel computes them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from .device_rules import (
    Chunk,
    accumulation_dtype,
    adds_by_index,
    counting_dtype,
    kernels_for,
    values_may_be_read,
    voxel_chunks,
)
from .focal_term import focal_term, focal_term_slope
from .probabilities import Activation, class_probabilities, probabilities_of, soft_overlap, soft_overlap_slope


class Wanted(NamedTuple):
    """What a pass computes."""

    activation: Activation
    sums: bool = False
    """The sums over voxels."""
    squared: bool = False
    """In the sums, squares of the probabilities and of the target, outside of the overlap."""
    gamma: float | None = None
    """The exponent of the focal losses of the voxels, 0 for cross-entropy; None for no such losses. They need a
    softmax, and for another exponent than 0 class indices."""


class Results(NamedTuple):
    """What a pass gives: float64 for float64 logits, else float32. What is not wanted is an empty tensor."""

    overlap: Tensor
    """The sum of probability times target over the valid voxels, `[B, C]`: the true positives."""
    predicted: Tensor
    """The sum of the probabilities, `[B, C]`: true and false positives."""
    present: Tensor
    """The sum of the target, `[B, C]`: true positives and false negatives."""
    losses: Tensor
    """The focal losses of the voxels, `[B, S]`, 0 where not valid."""


class _Block(NamedTuple):
    """A part of the voxels."""

    samples: slice
    voxels: slice
    target: Tensor
    """Class indices `[b, 1, s]`, int64, or probabilities `[b, C, s]`; 0 where not valid."""
    valid: Tensor | None
    """`[b, 1, s]` or `[b, C, s]`."""
    weights: Tensor | None
    """`[b, 1, s]`."""
    masks_voxels: bool
    """Whether `valid` leaves out whole voxels, not single classes of them."""


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
    """The results; see `one_pass` for the arguments.

    Given a place `[B, C, S]` for the probabilities, writes them there. What it writes is finite for voxels that are not
    valid, and where there are sums it is 0. With `whole` all is a single block.
    """
    if (kernels := kernels_for(logits, target, wanted.activation)) is not None:
        return Results(*kernels.forward(logits, target, valid, class_factor, voxel_weights, *wanted[1:]))
    dtype, hard = accumulation_dtype(logits.dtype), target.ndim == 2
    # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
    shape = logits.shape[:2] if wanted.sums else (0,)
    overlap, predicted, present = (logits.new_zeros(shape, dtype=counting_dtype(logits.device)) for _ in range(3))
    losses = logits.new_empty((0,) if wanted.gamma is None else logits.shape[::2], dtype=dtype)
    if probabilities is not None:
        _write_probabilities(logits, wanted.activation, probabilities)
    for samples, voxels, truth, counts, weights, masks_voxels in _blocks(logits, target, valid, voxel_weights, whole):
        if probabilities is None:
            block = probabilities_of(logits[samples, :, voxels], wanted.activation)
        else:
            block = probabilities[samples, :, voxels]
        at_target, finite = None, False
        if wanted.gamma is not None:
            if hard:
                at_target, log_probability, finite = _log_probability(block, logits[samples, :, voxels], truth)
                at_target = at_target if wanted.sums else None  # no memory for what is not needed
                terms = _times_class_factor(focal_term(log_probability, wanted.gamma), truth, class_factor)
            else:
                factors = truth if class_factor is None else truth * class_factor[:, None]
                log_probabilities = torch.log_softmax(logits[samples, :, voxels], 1, dtype=dtype)
                terms = torch.where(factors == 0, 0.0, log_probabilities.mul_(factors)).sum(1, keepdim=True).neg_()
            if counts is not None and masks_voxels:
                terms = torch.where(counts, terms, 0.0)
            losses[samples, voxels] = terms.squeeze(1)
        if wanted.sums:
            if counts is not None:
                in_place = wanted.activation != "none" and (masks_voxels or wanted.activation != "softmax")
                block = _zero_invalid(block, counts, in_place, finite)
            if hard:
                _add_hard(overlap[samples], present[samples], block, truth, counts, weights, at_target)
            else:
                common = soft_overlap(block, truth, wanted.squared)
                truth = truth.square() if wanted.squared else truth
                overlap[samples] += (common if weights is None else common * weights).sum(2)
                present[samples] += (truth if weights is None else truth * weights).sum(2)
            block = block.square() if wanted.squared else block
            predicted[samples] += (block if weights is None else block * weights).sum(2)
        elif probabilities is not None and counts is not None and masks_voxels and not finite:
            block.masked_fill_(~counts, 0.0)
    return Results(overlap.to(dtype), predicted.to(dtype), present.to(dtype), losses)


def pass_backward(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
    wanted: Wanted,
    grad_overlap: Tensor,
    grad_predicted: Tensor,
    grad_losses: Tensor,
    probabilities: Tensor | None = None,
    whole: bool = False,
) -> Tensor:
    """The gradient by the logits.

    Overwrites the probabilities if given those that the forward pass wrote. With `whole` all is a single block.
    """
    if (kernels := kernels_for(logits, target, wanted.activation)) is not None:
        tensors = (logits, target, valid, class_factor, voxel_weights, grad_overlap, grad_predicted, grad_losses)
        return cast(Tensor, kernels.backward(*tensors, *wanted[1:]))
    dtype, hard = accumulation_dtype(logits.dtype), target.ndim == 2
    grad = torch.empty_like(logits) if probabilities is None else probabilities
    for samples, voxels, truth, counts, weights, masks_voxels in _blocks(logits, target, valid, voxel_weights, whole):
        place = block = grad[samples, :, voxels]
        if probabilities is None:
            if block.dtype != dtype or not block.is_contiguous():
                block = torch.empty(block.shape, dtype=dtype, device=block.device)
            _write_probabilities(logits[samples, :, voxels], wanted.activation, block)
        zero_at_invalid = probabilities is not None  # by what the forward pass wrote
        slope_at_target = probability = added = None
        if wanted.gamma is not None:
            slope_at_target = grad_losses[samples, None, voxels]
            if hard and (wanted.sums or wanted.gamma != 0):
                probability, tiny = _probability_to_divide_by(block, truth, counts if masks_voxels else None)
                if tiny and wanted.sums:
                    block.scatter_(1, truth, probability)
                    zero_at_invalid = False
                if wanted.gamma != 0:
                    slope_at_target = focal_term_slope(probability.log(), wanted.gamma) * slope_at_target
            if hard:
                slope_at_target = _times_class_factor(slope_at_target, truth, class_factor)
            if counts is not None and masks_voxels:
                slope_at_target = torch.where(counts, slope_at_target, 0.0)
            if not hard:
                factors = (truth if class_factor is None else truth * class_factor[:, None]) * slope_at_target
                added = (block * factors.sum(1, keepdim=True)).sub_(factors)
        if wanted.sums:
            slope = grad_predicted[samples, :, None]  # by the probabilities
            slope = 2 * block * slope if wanted.squared else slope.repeat(1, 1, block.shape[2])
            if weights is not None:
                slope.mul_(weights)
            if hard:
                by_target = grad_overlap[samples].gather(1, truth.squeeze(1))[:, None]
                by_target = by_target if weights is None else by_target * weights
                if slope_at_target is not None and probability is not None:
                    # One more term by the probability, so that the softmax's backward pass serves both.
                    by_target = by_target - slope_at_target / probability
                slope.scatter_add_(1, truth, by_target)
            else:
                common = soft_overlap_slope(block, truth, wanted.squared)
                slope.addcmul_(grad_overlap[samples, :, None], common if weights is None else common * weights)
            if counts is not None and not masks_voxels:
                slope.masked_fill_(~counts, 0.0)
            _through_activation(slope, block, wanted.activation)
            if added is not None:
                block.add_(added)
        elif added is not None:
            block.copy_(added)
        elif slope_at_target is not None:
            # The slope by the logits is p - 1 at the target and p elsewhere, times that of the voxel's loss.
            block.mul_(slope_at_target).scatter_add_(1, truth, slope_at_target.neg())
        if counts is not None and not zero_at_invalid and (masks_voxels or wanted.activation != "softmax"):
            block.masked_fill_(~counts, 0.0)
        if block is not place:
            place.copy_(block)
    return grad


def _blocks(
    logits: Tensor, target: Tensor, valid: Tensor | None, voxel_weights: Tensor | None, whole: bool
) -> Iterator[_Block]:
    """The blocks of logits `[B, C, S]`; smaller ones for a target of probabilities, which takes more temporaries."""
    samples, classes, voxels = logits.shape
    hard, dtype = target.ndim == 2, accumulation_dtype(logits.dtype)
    chunks: Iterable[Chunk] = [(slice(0, samples), slice(0, voxels))]
    if not whole:
        chunks = voxel_chunks(torch.Size((samples, classes if hard else 2 * classes, voxels)), logits.device)
    for chunk in chunks:
        counts, weights = _with_class_axis(valid, chunk), _with_class_axis(voxel_weights, chunk)
        if hard:
            index = target[chunk]  # times valid, because torch.where takes several times as long
            truth = (index if valid is None else index * valid[chunk]).long()[:, None]
        else:
            truth = class_probabilities(target[chunk[0], :, chunk[1]], counts, classes, dtype)
        yield _Block(*chunk, truth, counts, weights, counts is not None and counts.shape[1] == 1)


def _with_class_axis(voxels: Tensor | None, chunk: Chunk) -> Tensor | None:
    """The block `[b, 1, s]` of `[B, S]`, or `[b, C, s]` of `[B, C, S]`."""
    if voxels is None:
        return None
    return voxels[chunk[0], None, chunk[1]] if voxels.ndim == 2 else voxels[chunk[0], :, chunk[1]]


def _write_probabilities(logits: Tensor, activation: Activation, place: Tensor) -> None:
    """Write the probabilities of the logits into memory of their shape."""
    if activation == "softmax":
        torch.softmax(logits, dim=1, dtype=place.dtype, out=place)
    elif activation == "sigmoid":
        place.copy_(logits).sigmoid_()
    else:
        place.copy_(logits)


def _smallest_probability(dtype: torch.dtype) -> float:
    """Softmax below this is 0 to every sum, but one can still divide by it."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _log_probability(block: Tensor, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The softmax at the target and its logarithm, `[b, 1, s]`, and whether all of the softmax is known as finite."""
    probability = block.gather(1, index)
    smallest = _smallest_probability(block.dtype)
    if values_may_be_read(block, validate=False) and bool(probability.amin() >= smallest):
        return probability, probability.log(), True
    # A tiny probability is not exact, and may be 0. The largest one is at least 1 / C.
    log_sum = logits.amax(1, keepdim=True) - block.amax(1, keepdim=True).log()
    exact = logits.gather(1, index).to(block.dtype) - log_sum
    return probability, torch.where(probability < smallest, exact, probability.log()), False


def _probability_to_divide_by(block: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, bool]:
    """The softmax at the target, `[b, 1, s]`, clamped to divide by it, and whether that may have changed it.

    It is 1 where not valid.
    """
    probability = block.gather(1, index)
    if valid is not None:
        probability = torch.where(valid, probability, 1.0)
    smallest = _smallest_probability(block.dtype)
    if values_may_be_read(block, validate=False) and bool(probability.amin() >= smallest):
        return probability, False
    return probability.clamp(min=smallest), True


def _times_class_factor(values: Tensor, index: Tensor, class_factor: Tensor | None) -> Tensor:
    """A block's values, each times the factor of its class; both `[b, 1, s]`."""
    if class_factor is None:
        return values
    return values * class_factor.index_select(0, index.flatten()).view_as(index)


def _zero_invalid(block: Tensor, valid: Tensor, in_place: bool, finite: bool) -> Tensor:
    """The block of probabilities with 0 where not valid."""
    if not in_place:
        return block.masked_fill(~valid, 0.0)
    # Several times as fast as filling, but NaN times 0 is NaN.
    if finite or (values_may_be_read(block, validate=False) and bool(block.sum().isfinite())):
        return block.mul_(valid)
    return block.masked_fill_(~valid, 0.0)


def _add_hard(
    overlap: Tensor,
    present: Tensor,
    block: Tensor,
    index: Tensor,
    valid: Tensor | None,
    weights: Tensor | None,
    at_target: Tensor | None,
) -> None:
    """Add the overlap with, and the number of, class indices; `at_target` are the probabilities there, if known."""
    if adds_by_index(block.device):
        if at_target is None:
            at_target = block.gather(1, index)
        elif valid is not None:
            at_target = torch.where(valid, at_target, 0.0)
        hit = at_target if weights is None else at_target * weights
        counts = overlap.new_ones((1, 1, 1)).expand(index.shape) if weights is None else weights.to(overlap.dtype)
        counts = counts if valid is None else torch.where(valid, counts, 0.0)
        overlap.scatter_add_(1, index.squeeze(1), hit.squeeze(1).to(overlap.dtype))
        present.scatter_add_(1, index.squeeze(1), counts.squeeze(1))
        return
    is_class = index == torch.arange(block.shape[1], device=block.device)[:, None]
    if valid is not None:
        is_class &= valid
    block = block if weights is None else block * weights
    overlap += torch.where(is_class, block, 0.0).sum(2)
    present += (is_class if weights is None else is_class * weights).sum(2)


def _through_activation(slope: Tensor, block: Tensor, activation: Activation) -> None:
    """Replace the probabilities in the block by the slope by the logits, given that by the probabilities."""
    if activation == "softmax":
        # block * (slope - (block * slope).sum(1)), by torch's own kernel, which writes to contiguous memory only.
        if block.is_contiguous():
            torch._softmax_backward_data(slope, block, 1, slope.dtype, grad_input=block)
        else:
            block.copy_(torch._softmax_backward_data(slope, block, 1, slope.dtype))
    elif activation == "sigmoid":
        slope -= slope * block
        block *= slope
    else:
        block.copy_(slope)
