# mypy: ignore-errors
# A type checker does not know the language of the kernels.
"""Triton kernels of the pass over the logits. Importing this module needs Triton.

A program takes a block of voxels of one sample, with all classes at once. So the forward pass reads the logits once,
and the backward pass reads them once and writes the gradient. A program writes one partial sum for each class, and
`triton_pass` adds them up. There are no atomic additions, so results are the same in every run.
"""

import triton
import triton.language as tl


@triton.jit
def _softmax_of_block(
    logits, target, valid, stride_sample, stride_class, stride_voxel, classes, voxels, blocks,
    padded_classes: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    """The softmax of a block as exponentials and their total, its logarithm at the target, and where things are.

    `padded_classes` is a power of two.
    """
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    voxel = block * block_size + tl.arange(0, block_size)
    kind = tl.arange(0, padded_classes)
    inside = voxel < voxels
    place = sample * voxels + voxel
    counts = inside
    if valid is not None:
        counts = counts & (tl.load(valid + place, mask=inside, other=0) != 0)
    index = tl.load(target + place, mask=counts, other=0)
    known = (index >= 0) & (index < classes)
    index = index.to(tl.int32)
    offset = kind.to(tl.int64)[:, None] * stride_class + voxel.to(tl.int64)[None, :] * stride_voxel
    offset += sample * stride_sample
    exists = (kind < classes)[:, None]
    block_logits = tl.load(logits + offset, mask=exists & counts[None, :], other=0.0).to(tl.float32)
    block_logits = tl.where(exists, block_logits, float("-inf"))
    # A kernel cannot raise an error. NaN shows that a class index is out of range.
    block_logits = tl.where(known[None, :], block_logits, float("nan"))
    is_target = index[None, :] == kind[:, None]
    largest = tl.max(block_logits, 0)
    exponentials = tl.exp(block_logits - largest[None, :])
    total = tl.sum(exponentials, 0)
    log_probability = tl.sum(tl.where(is_target, block_logits, 0.0), 0) - largest - tl.log(total)
    return (
        exponentials, total, log_probability, index, is_target,
        sample, block, kind, inside, counts, known, place, offset,
    )  # fmt: skip


@triton.jit
def _focal_factors(exponentials, total, is_target, gamma):
    """One minus the probability of the target, not 0, and its power gamma."""
    rest = tl.sum(tl.where(is_target, 0.0, exponentials), 0) / total  # without the cancellation of 1 - p
    rest = tl.maximum(rest, 1.1754943508222875e-38)
    return rest, tl.exp(gamma * tl.log(rest))


@triton.jit
def forward_kernel(
    logits, target, valid, class_factor, voxel_weights, losses, partial_sums,
    stride_sample, stride_class, stride_voxel, classes, voxels, blocks, gamma,
    sums: tl.constexpr, squared: tl.constexpr, has_losses: tl.constexpr, focal: tl.constexpr,
    padded_classes: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    """Write the losses `[B, S]` and each block's sums `[B, 3, C, blocks]`: overlap, predicted and present."""
    (
        exponentials, total, log_probability, index, is_target,
        sample, block, kind, inside, counts, known, place, _,
    ) = _softmax_of_block(
        logits, target, valid, stride_sample, stride_class, stride_voxel, classes, voxels, blocks,
        padded_classes, block_size,
    )  # fmt: skip
    if has_losses:
        loss = -log_probability
        if focal:
            _, power = _focal_factors(exponentials, total, is_target, gamma)
            loss = loss * power
        if class_factor is not None:
            loss = loss * tl.load(class_factor + index, mask=counts & known, other=0.0)
        tl.store(losses + place, tl.where(counts, loss, 0.0), mask=inside)
    if sums:
        weight = tl.where(counts, 1.0, 0.0)
        if voxel_weights is not None:
            weight = tl.load(voxel_weights + place, mask=counts, other=0.0).to(tl.float32)
        probability = exponentials * (1 / total)[None, :]
        weighted = tl.where(counts[None, :], probability * weight[None, :], 0.0)
        overlap = tl.sum(tl.where(is_target, weighted, 0.0), 1)
        predicted = tl.sum(weighted * probability if squared else weighted, 1)
        present = tl.sum(tl.where(is_target, weight[None, :], 0.0), 1)
        row = sample * 3 * classes + kind
        exists = kind < classes
        tl.store(partial_sums + row * blocks + block, overlap, mask=exists)
        tl.store(partial_sums + (row + classes) * blocks + block, predicted, mask=exists)
        tl.store(partial_sums + (row + 2 * classes) * blocks + block, present, mask=exists)


@triton.jit
def backward_kernel(
    logits, target, valid, class_factor, voxel_weights, grad, grad_overlap, grad_predicted, grad_losses,
    stride_sample, stride_class, stride_voxel, losses_stride_sample, losses_stride_voxel,
    classes, voxels, blocks, gamma,
    sums: tl.constexpr, squared: tl.constexpr, has_losses: tl.constexpr, focal: tl.constexpr,
    padded_classes: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    """Write the gradient by the logits, which has their strides."""
    (
        exponentials, total, log_probability, index, is_target,
        sample, block, kind, inside, counts, known, place, offset,
    ) = _softmax_of_block(
        logits, target, valid, stride_sample, stride_class, stride_voxel, classes, voxels, blocks,
        padded_classes, block_size,
    )  # fmt: skip
    probability = exponentials * (1 / total)[None, :]
    exists = kind < classes
    result = tl.zeros_like(probability)
    if sums:
        row = sample * classes + kind
        slope = tl.load(grad_predicted + row, mask=exists, other=0.0)[:, None]
        if squared:
            slope = 2 * probability * slope
        slope = slope + tl.where(is_target, tl.load(grad_overlap + row, mask=exists, other=0.0)[:, None], 0.0)
        if voxel_weights is not None:
            slope = slope * tl.load(voxel_weights + place, mask=counts, other=0.0).to(tl.float32)[None, :]
        result = probability * (slope - tl.sum(probability * slope, 0)[None, :])
    if has_losses:
        voxel = block * block_size + tl.arange(0, block_size)
        offset_of_loss = sample * losses_stride_sample + voxel.to(tl.int64) * losses_stride_voxel
        at_target = tl.load(grad_losses + offset_of_loss, mask=counts, other=0.0)
        if class_factor is not None:
            at_target = at_target * tl.load(class_factor + index, mask=counts & known, other=0.0)
        if focal:
            rest, power = _focal_factors(exponentials, total, is_target, gamma)
            finite = tl.maximum(log_probability, -3.4028234663852886e38)  # infinity times a p of 0 would be NaN
            of_target = tl.sum(tl.where(is_target, probability, 0.0), 0)
            at_target = at_target * (power - gamma * finite * of_target * power / rest)
        result = result + at_target[None, :] * (probability - tl.where(is_target, 1.0, 0.0))
    tl.store(grad + offset, tl.where(counts[None, :], result, 0.0), mask=exists[:, None] & inside[None, :])
