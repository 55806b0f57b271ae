"""The backward pass: block by block where no kernel computes it."""

from typing import cast

import torch
from torch import Tensor

from .block_passes import times_class_factor, weighted_truth
from .device_rules import (
    accumulation_dtype,
    block_of,
    blocks_of,
    class_index,
    store_block,
    values_may_be_read,
    working_block,
)
from .focal_term import focal_term_slope
from .kernels import kernels_for
from .probabilities import class_probabilities, smallest_probability, soft_overlap_slope, write_probabilities
from .results import Activation, Wanted


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
    grad = torch.empty_like(logits) if probabilities is None else probabilities
    for chunk in blocks_of(logits, target, whole):
        samples, voxels = chunk
        if probabilities is None:
            block = working_block(grad, chunk, accumulation_dtype(logits.dtype))
            write_probabilities(logits[samples, :, voxels], wanted.activation, block)
        else:
            block = probabilities[samples, :, voxels]
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        chunk_valid = block_of(valid, chunk)
        zero_at_invalid = probabilities is not None  # by what the forward pass wrote
        slope_at_target = probability = added = None
        masks_voxels = chunk_valid is not None and chunk_valid.shape[1] == 1
        if wanted.gamma is not None:
            slope_at_target = grad_losses[samples, None, voxels]
            if index is not None and (wanted.sums or wanted.gamma != 0):
                probability, tiny = _probability_to_divide_by(block, index, chunk_valid)
                if tiny and wanted.sums:
                    block.scatter_(1, index, probability)
                    zero_at_invalid = False
                if wanted.gamma != 0:
                    slope_at_target = focal_term_slope(probability.log(), wanted.gamma) * slope_at_target
            if index is not None:
                slope_at_target = times_class_factor(slope_at_target, index, class_factor)
            if chunk_valid is not None and masks_voxels:
                slope_at_target = torch.where(chunk_valid, slope_at_target, 0.0)
            if index is None:
                truth = weighted_truth(target[samples, :, voxels], chunk_valid, block, class_factor) * slope_at_target
                added = (block * truth.sum(1, keepdim=True)).sub_(truth)
        if wanted.sums:
            slope = grad_predicted[samples, :, None]  # by the probabilities
            slope = 2 * block * slope if wanted.squared else slope.repeat(1, 1, block.shape[2])
            weights = block_of(voxel_weights, chunk)
            if weights is not None:
                slope.mul_(weights)
            if index is None:
                truth = class_probabilities(target[samples, :, voxels], chunk_valid, block.shape[1], slope.dtype)
                common = soft_overlap_slope(block, truth, wanted.squared)
                common = common if weights is None else common * weights
                slope.addcmul_(grad_overlap[samples, :, None], common)
            else:
                by_target = grad_overlap[samples].gather(1, index.squeeze(1))[:, None]
                if weights is not None:
                    by_target = by_target * weights
                if slope_at_target is not None and probability is not None:
                    # One more term by the probability, so that the softmax's backward pass serves both.
                    by_target = by_target - slope_at_target / probability
                slope.scatter_add_(1, index, by_target)
            if chunk_valid is not None and chunk_valid.shape[1] != 1:
                slope.masked_fill_(~chunk_valid, 0.0)
            _through_activation(slope, block, wanted.activation)
            if added is not None:
                block.add_(added)
        elif added is not None:
            block.copy_(added)
        elif slope_at_target is not None and index is not None:
            # The slope by the logits is p - 1 at the target and p elsewhere, times that of the voxel's loss.
            block.mul_(slope_at_target).scatter_add_(1, index, slope_at_target.neg())
        if chunk_valid is not None and not zero_at_invalid and (masks_voxels or wanted.activation != "softmax"):
            block.masked_fill_(~chunk_valid, 0.0)
        if probabilities is None:
            store_block(grad, chunk, block)
    return grad


def _probability_to_divide_by(block: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, bool]:
    """The softmax at the target, `[b, 1, s]`, clamped to divide by it, and whether that may have changed it.

    It is 1 where not valid.
    """
    probability = block.gather(1, index)
    if valid is not None and valid.shape[1] == 1:
        probability = torch.where(valid, probability, 1.0)
    smallest = smallest_probability(block.dtype)
    if values_may_be_read(block, validate=False) and bool(probability.amin() >= smallest):
        return probability, False
    return probability.clamp(min=smallest), True


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
