"""The gradient of the fused losses: the memory that it is computed in, and its own derivative."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .accumulation_dtype import accumulation_dtype
from .voxel_chunks import Chunk


def future_gradient(logits: Tensor) -> Tensor | None:
    """Memory for the gradient of logits, to hold probabilities until then; None where it is not wanted or unfit."""
    if not (logits.requires_grad and torch.is_grad_enabled() and logits.is_contiguous()):
        return None
    return torch.empty_like(logits) if logits.dtype == accumulation_dtype(logits.dtype) else None


def working_block(whole: Tensor, chunk: Chunk, dtype: torch.dtype) -> Tensor:
    """Memory to compute the block of `whole` `[B, C, S]` in: the block itself if it serves, else some of its own."""
    block = whole[chunk[0], :, chunk[1]]
    if block.dtype == dtype and block.is_contiguous():
        return block
    return torch.empty(block.shape, dtype=dtype, device=block.device)


def store_block(whole: Tensor, chunk: Chunk, block: Tensor) -> None:
    """Write what was computed in a `working_block` to its place."""
    place = whole[chunk[0], :, chunk[1]]
    if place.data_ptr() != block.data_ptr():
        place.copy_(block)


def differentiable_gradient(
    formula: Callable[[Tensor], Tensor | Sequence[Tensor]], logits: Tensor, grad_outputs: Tensor | Sequence[Tensor]
) -> Tensor:
    """The gradient by the logits of a formula in torch's operations, as a part of the graph (`create_graph=True`)."""
    logits = logits.view_as(logits)
    if not logits.requires_grad:  # the function that torch.func.vjp returns is called when its transform has ended
        logits = logits.detach().requires_grad_()
    (grad,) = torch.autograd.grad(formula(logits), logits, grad_outputs, create_graph=True)
    return grad
