"""The pass over the logits on a GPU: `one_pass` with a softmax and class indices, by one kernel each way.

Importing this module needs Triton, which CUDA builds of torch bring along.
"""

from typing import Any, cast

import torch
from torch import Tensor

from .triton_kernels import backward_kernel, forward_kernel


def forward(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
    sums: bool,
    squared: bool,
    gamma: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums `[B, C]` and the losses `[B, S]`; see `one_pass`."""
    samples, classes, voxels = logits.shape
    tile = _tile(classes, voxels)
    blocks = -(-voxels // tile["block_size"])
    losses = logits.new_empty((0,) if gamma is None else (samples, voxels), dtype=torch.float32)
    partial_sums = logits.new_empty((samples, 3, classes, blocks) if sums else (0, 3), dtype=torch.float32)
    with cast(Any, torch.cuda).device_of(logits):
        forward_kernel[(samples * blocks,)](
            *(logits, *_contiguous(target, valid, class_factor, voxel_weights), losses, partial_sums),
            *(*logits.stride(), classes, voxels, blocks, float(gamma or 0)),
            **_options(sums, squared, gamma),
            **tile,
        )
    overlap, predicted, present = (partial_sums.sum(3) if sums else partial_sums).unbind(1)
    return overlap, predicted, present, losses


def backward(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
    grad_overlap: Tensor,
    grad_predicted: Tensor,
    grad_losses: Tensor,
    sums: bool,
    squared: bool,
    gamma: float | None,
) -> Tensor:
    """The gradient by the logits."""
    samples, classes, voxels = logits.shape
    tile = _tile(classes, voxels)
    blocks = -(-voxels // tile["block_size"])
    grad = torch.empty_like(logits)
    if grad.stride() != logits.stride():
        logits = logits.contiguous()
        grad = torch.empty_like(logits)
    strides = (*logits.stride(), *(grad_losses.stride() if gamma is not None else (0, 0)))
    with cast(Any, torch.cuda).device_of(logits):
        backward_kernel[(samples * blocks,)](
            *(logits, *_contiguous(target, valid, class_factor, voxel_weights), grad),
            *(*_contiguous(grad_overlap, grad_predicted), grad_losses),
            *(*strides, classes, voxels, blocks, float(gamma or 0)),
            **_options(sums, squared, gamma),
            **tile,
        )
    return grad


def _options(sums: bool, squared: bool, gamma: float | None) -> dict[str, bool]:
    """What a kernel is compiled for."""
    return {"sums": sums, "squared": squared, "has_losses": gamma is not None, "focal": bool(gamma)}


def _tile(classes: int, voxels: int) -> dict[str, int]:
    """The size of a program's block, a power of two each way.

    Blocks of 4096 numbers and 4 warps were the fastest, or near it, for 4 to 118 classes (H100).
    """
    padded_classes = _power_of_two(classes)
    block_size = min(1024, 4096 // padded_classes, max(16, _power_of_two(voxels)))
    return {"padded_classes": padded_classes, "block_size": block_size, "num_warps": 4}


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    """The tensors as the kernels read them: contiguous, and bool as uint8, which compares with numbers."""
    given = [None if one is None else one.contiguous() for one in tensors]
    return [one.view(torch.uint8) if one is not None and one.dtype == torch.bool else one for one in given]
