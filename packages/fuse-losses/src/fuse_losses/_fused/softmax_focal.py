"""Focal loss and cross-entropy of a softmax and class indices, at the memory of their gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .accumulation_dtype import accumulation_dtype
from .class_sums import zero_where_invalid
from .focal_term import focal_term, focal_term_slope
from .fused_gradient import differentiable_gradient, future_gradient, store_block, working_block
from .voxel_chunks import class_index, voxel_chunks


def softmax_focal(
    logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, gamma: float
) -> Tensor:
    """The weighted focal loss of every voxel, 0 where it is not valid; with `gamma` 0, the cross-entropy.

    At no time there is more memory of the logits' size than for their gradient. Where that can hold them, it holds the
    log-probabilities until the backward pass, which turns them into the gradient in place; otherwise the backward pass
    computes them again.

    Args:
        logits: `[B, C, S]`.
        target: class indices, `[B, S]`; may hold anything where not valid.
        valid: which voxels count, bool `[B, S]`; None is all.
        class_factor: what the loss of a voxel of each class is multiplied by, `[C]`; None is 1.
        gamma: the exponent.

    Returns:
        `[B, S]`, float64 for float64 logits, else float32.
    """
    if torch.compiler.is_compiling():
        compiled: Tensor = _compiled_losses(logits, target, valid, class_factor, gamma)
        return compiled
    log_probabilities = future_gradient(logits)
    losses: Tensor = _SoftmaxFocal.apply(  # type: ignore[no-untyped-call]
        logits, target, valid, class_factor, gamma, log_probabilities
    )
    return losses


def _losses(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    gamma: float,
    log_probabilities: Tensor | None = None,
) -> Tensor:
    """The losses of the voxels; writes the log-probabilities `[B, C, S]` if given a place for them."""
    dtype = accumulation_dtype(logits.dtype)
    losses = logits.new_empty(target.shape, dtype=dtype)
    if log_probabilities is not None:
        torch.log_softmax(logits, dim=1, dtype=dtype, out=log_probabilities)
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if log_probabilities is None:
            block = torch.log_softmax(logits[samples, :, voxels], dim=1, dtype=dtype)
        else:
            block = log_probabilities[samples, :, voxels]
        index = class_index(target, valid, chunk).unsqueeze(1)
        terms = _times_class_factor(focal_term(block.gather(1, index), gamma), index, class_factor).squeeze(1)
        losses[chunk] = terms if valid is None else torch.where(valid[chunk], terms, 0.0)
    return losses


def _gradient(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    gamma: float,
    grad_losses: Tensor,
    log_probabilities: Tensor | None = None,
) -> Tensor:
    """The gradient by the logits; overwrites the log-probabilities if given them."""
    dtype = accumulation_dtype(logits.dtype)
    grad = torch.empty_like(logits) if log_probabilities is None else log_probabilities
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if log_probabilities is None:
            block = working_block(grad, chunk, dtype)
            torch.log_softmax(logits[samples, :, voxels], dim=1, dtype=dtype, out=block)
        else:
            block = log_probabilities[samples, :, voxels]
        index = class_index(target, valid, chunk).unsqueeze(1)
        slope = grad_losses[samples, None, voxels]  # by minus the log-probability of the target
        if gamma != 0:
            slope = slope * focal_term_slope(block.gather(1, index), gamma)
        slope = _times_class_factor(slope, index, class_factor)
        # The slope by the logits is slope * (p - 1) at the target and slope * p elsewhere.
        block.exp_().mul_(slope).scatter_add_(1, index, slope.neg())
        if valid is not None:
            block.masked_fill_(~valid[samples, None, voxels], 0.0)
        store_block(grad, chunk, block)
    return grad


def _times_class_factor(values: Tensor, index: Tensor, class_factor: Tensor | None) -> Tensor:
    """A block's values, each times the factor of its class; both `[b, 1, s]`."""
    if class_factor is None:
        return values
    return values * class_factor.index_select(0, index.flatten()).view_as(index)


def _formula(logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, gamma: float) -> Tensor:
    """The same losses as one expression, for derivatives of derivatives."""
    logits = zero_where_invalid(logits, valid)
    log_probabilities = torch.log_softmax(logits, dim=1, dtype=accumulation_dtype(logits.dtype))
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
    # Not a gather, whose index may be out of range where not valid.
    log_probability = torch.where(target[:, None] == classes, log_probabilities, 0.0).sum(1)
    losses = focal_term(log_probability, gamma)
    if class_factor is not None:
        losses = losses * torch.where(target[:, None] == classes, class_factor[:, None], 0.0).sum(1)
    return losses if valid is None else torch.where(valid, losses, 0.0)


class _SoftmaxFocal(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        target: Tensor,
        valid: Tensor | None,
        class_factor: Tensor | None,
        gamma: float,
        log_probabilities: Tensor | None,
    ) -> Tensor:
        return _losses(logits, target, valid, class_factor, gamma, log_probabilities)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004  the name is torch's
        logits, target, valid, class_factor, ctx.gamma, ctx.log_probabilities = inputs
        ctx.save_for_backward(logits, target, valid, class_factor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, target, valid, class_factor = ctx.saved_tensors
        (grad_losses,) = grad_outputs
        # Overwritten by the first backward pass; a second one, after retain_graph=True, computes them again.
        log_probabilities, ctx.log_probabilities = ctx.log_probabilities, None
        if torch.is_grad_enabled():  # create_graph=True
            grad = differentiable_gradient(
                lambda logits: _formula(logits, target, valid, class_factor, ctx.gamma), logits, grad_losses
            )
        else:
            grad = _gradient(logits, target, valid, class_factor, ctx.gamma, grad_losses, log_probabilities)
        return grad, None, None, None, None, None


# Forward and backward pass as one operation each, so that they are when compiled what they are when not. Traced, they
# would become loops that keep the softmax beside the gradient, and on a CPU take several times as long.
_ARGUMENTS = "Tensor logits, Tensor target, Tensor? valid, Tensor? class_factor, float gamma"


@torch.library.custom_op("fuse_losses::softmax_focal", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _compiled_losses(*arguments: Any) -> Tensor:
    return _losses(*arguments)


@torch.library.custom_op(
    "fuse_losses::softmax_focal_gradient", mutates_args=(), schema=f"({_ARGUMENTS}, Tensor grad_losses) -> Tensor"
)
def _compiled_gradient(*arguments: Any) -> Tensor:
    return _gradient(*arguments)


@_compiled_losses.register_fake
def _(logits: Tensor, target: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(target.shape, dtype=accumulation_dtype(logits.dtype))


@_compiled_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  the name is torch's
    *tensors, ctx.gamma = inputs
    ctx.save_for_backward(*tensors)


def _compiled_backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _compiled_gradient(*ctx.saved_tensors, ctx.gamma, grad_losses), None, None, None, None


_compiled_losses.register_autograd(_compiled_backward, setup_context=_keep_arguments)
