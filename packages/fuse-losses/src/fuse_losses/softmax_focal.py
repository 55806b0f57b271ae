"""Focal loss and cross-entropy of a softmax and class indices, at the memory of their gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .focal_term import focal_term, focal_term_slope
from .voxel_chunks import Chunk, accumulation_dtype, class_index, store_block, voxel_chunks, working_block


def softmax_focal(
    logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, gamma: float
) -> Tensor:
    """The weighted focal loss of every voxel, 0 where it is not valid; with `gamma` 0, the cross-entropy.

    Only the arguments are kept for the backward pass, which computes the softmax again, into the gradient.

    Args:
        logits: `[B, C, S]`.
        target: class indices, `[B, S]`; may hold anything where not valid.
        valid: which voxels count, bool `[B, S]`; None is all.
        class_factor: what the loss of a voxel of each class is multiplied by, `[C]`; None is 1.
        gamma: the exponent.

    Returns:
        `[B, S]`, float64 for float64 logits, else float32.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the formula by itself
        return _formula(logits, target, valid, class_factor, gamma)
    losses: Tensor = _SoftmaxFocal.apply(logits, target, valid, class_factor, gamma)  # type: ignore[no-untyped-call]
    return losses


def _formula(logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, gamma: float) -> Tensor:
    """The same as one expression, for the compiler and for derivatives of derivatives."""
    log_probabilities = torch.log_softmax(logits, dim=1, dtype=accumulation_dtype(logits.dtype))
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
    # Not a gather, whose backward pass would fill a tensor of the logits' size.
    log_probability = torch.where(target[:, None] == classes, log_probabilities, 0.0).sum(1)
    losses = focal_term(log_probability, gamma)
    if class_factor is not None:
        losses = losses * torch.where(target[:, None] == classes, class_factor[:, None], 0.0).sum(1)
    return losses if valid is None else torch.where(valid, losses, 0.0)


class _SoftmaxFocal(Function):
    @staticmethod
    def forward(
        logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, gamma: float
    ) -> Tensor:
        dtype = accumulation_dtype(logits.dtype)
        losses = logits.new_empty(target.shape, dtype=dtype)
        for chunk in voxel_chunks(logits.shape, logits.device):
            index = class_index(target, valid, chunk).unsqueeze(1)
            log_probabilities = torch.log_softmax(logits[chunk[0], :, chunk[1]], dim=1, dtype=dtype)
            chunk_losses = focal_term(log_probabilities.gather(1, index), gamma).squeeze(1)
            losses[chunk] = _times_factors(chunk_losses, index, valid, class_factor, chunk)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004  the name is torch's
        logits, target, valid, class_factor, gamma = inputs
        ctx.save_for_backward(logits, target, valid, class_factor)
        ctx.gamma = gamma

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, target, valid, class_factor = ctx.saved_tensors
        (grad_losses,) = grad_outputs
        if torch.is_grad_enabled():  # create_graph=True
            losses = _formula(logits, target, valid, class_factor, ctx.gamma)
            (grad,) = torch.autograd.grad(losses, logits, grad_losses, create_graph=True)
            return grad, None, None, None, None
        dtype = accumulation_dtype(logits.dtype)
        grad = torch.empty_like(logits)
        for chunk in voxel_chunks(logits.shape, logits.device):
            index = class_index(target, valid, chunk).unsqueeze(1)
            chunk_logits = logits[chunk[0], :, chunk[1]]
            block = working_block(grad, chunk, dtype)
            if ctx.gamma == 0:
                torch.softmax(chunk_logits, dim=1, dtype=dtype, out=block)
                slope = grad_losses[chunk].neg()
            else:
                torch.log_softmax(chunk_logits, dim=1, dtype=dtype, out=block)
                slope = focal_term_slope(block.gather(1, index).squeeze(1), ctx.gamma)
                slope *= grad_losses[chunk]
                block.exp_()
            slope = _times_factors(slope, index, valid, class_factor, chunk).unsqueeze(1)
            # With p now in the block: the slope by the logits is slope * (1 - p) at the target, slope * -p elsewhere.
            block.mul_(slope.neg()).scatter_add_(1, index, slope)
            store_block(grad, chunk, block)
        return grad, None, None, None, None


def _times_factors(
    values: Tensor, index: Tensor, valid: Tensor | None, class_factor: Tensor | None, chunk: Chunk
) -> Tensor:
    """A block's values, each times the factor of its class, and 0 where not valid."""
    if class_factor is not None:
        values = values * class_factor[index.squeeze(1)]
    return values if valid is None else torch.where(valid[chunk], values, 0.0)
