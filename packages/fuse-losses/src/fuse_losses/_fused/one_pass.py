"""One pass over the logits for all that dense losses are made of, at the memory of the gradient.

There are two kinds of results. Dice and its relatives need sums over voxels for each class. Cross-entropy and focal
loss need a loss for each voxel. Both come from the same probabilities, which are computed once. The memory of the
gradient holds the probabilities until the backward pass, which turns them into the gradient in place. Where it cannot
hold them, as in half precision, the backward pass computes them again.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .blocks import (
    accumulation_dtype,
    adds_by_index,
    class_index,
    counting_dtype,
    future_gradient,
    store_block,
    voxel_chunks,
    working_block,
)
from .focal_term import focal_term, focal_term_slope
from .gradient import differentiable_gradient

Activation = Literal["softmax", "sigmoid", "none"]


class Wanted(NamedTuple):
    """What to compute."""

    activation: Activation
    sums: bool = False
    """The sums over voxels."""
    squared: bool = False
    """In the sums, squares of the probabilities and of the target, outside of the overlap."""
    gamma: float | None = None
    """The exponent of the focal losses of the voxels, 0 for cross-entropy; None for no such losses. They need a softmax
    and class indices."""


class Results(NamedTuple):
    """Float64 for float64 logits, else float32. What is not wanted is an empty tensor."""

    overlap: Tensor
    """The sum of probability times target over the valid voxels, `[B, C]`: the true positives."""
    predicted: Tensor
    """The sum of the probabilities, `[B, C]`: true and false positives."""
    present: Tensor
    """The sum of the target, `[B, C]`: true positives and false negatives."""
    losses: Tensor
    """The focal losses of the voxels, `[B, S]`, 0 where not valid."""


def one_pass(
    logits: Tensor, target: Tensor, valid: Tensor | None, wanted: Wanted, class_factor: Tensor | None = None
) -> Results:
    """Compute the sums over voxels and the losses of voxels.

    Args:
        logits: `[B, C, S]`.
        target: class indices `[B, S]`, which may hold anything where not valid, or probabilities `[B, C, S]`.
        valid: which voxels count, bool `[B, S]`; None is all.
        wanted: what to compute.
        class_factor: a factor for the losses of the voxels of each class, `[C]`; None is 1.
    """
    if torch.compiler.is_compiling():
        return Results(*_compiled_forward(logits, target, valid, class_factor, *wanted))
    probabilities = None if wanted.activation == "none" else future_gradient(logits)
    return Results(*_OnePass.apply(logits, target, valid, class_factor, wanted, probabilities))  # type: ignore[no-untyped-call]


def probabilities_of(logits: Tensor, activation: Activation) -> Tensor:
    """The probabilities of logits `[B, C, S]`, in at least float32."""
    dtype = accumulation_dtype(logits.dtype)
    if activation == "softmax":
        return torch.softmax(logits, dim=1, dtype=dtype)
    return logits.to(dtype).sigmoid() if activation == "sigmoid" else logits.to(dtype)


def class_probabilities(target: Tensor, valid: Tensor | None, classes: int, dtype: torch.dtype) -> Tensor:
    """A target `[B, S]` or `[B, C, S]` as probabilities `[B, C, S]`, 0 where not valid."""
    if target.ndim == 2:
        target = target[:, None] == torch.arange(classes, device=target.device)[:, None]
    target = target.to(dtype)
    return target if valid is None else torch.where(valid[:, None], target, 0.0)


def zero_where_invalid(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Logits `[B, C, S]` with 0 where not valid: a gradient of 0 would not stay 0 through NaN or infinity there."""
    return logits if valid is None else torch.where(valid[:, None], logits, 0.0)


def _forward(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    wanted: Wanted,
    probabilities: Tensor | None = None,
) -> Results:
    """The results; writes the probabilities `[B, C, S]` if given a place for them."""
    dtype = accumulation_dtype(logits.dtype)
    # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
    shape = logits.shape[:2] if wanted.sums else (0,)
    totals = [logits.new_zeros(shape, dtype=counting_dtype(logits.device)) for _ in range(3)]
    losses = logits.new_empty((0,) if wanted.gamma is None else target.shape, dtype=dtype)
    if probabilities is not None:
        _write_probabilities(logits, wanted.activation, probabilities)
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if probabilities is None:
            block = probabilities_of(logits[samples, :, voxels], wanted.activation)
        else:
            block = probabilities[samples, :, voxels]
        chunk_valid = None if valid is None else valid[chunk]
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        if wanted.gamma is not None and index is not None:
            log_probability = _log_probability(block, logits[samples, :, voxels], index)
            terms = _times_class_factor(focal_term(log_probability, wanted.gamma), index, class_factor).squeeze(1)
            losses[chunk] = terms if chunk_valid is None else torch.where(chunk_valid, terms, 0.0)
        if wanted.sums:
            if chunk_valid is not None:
                block = block.masked_fill(~chunk_valid[:, None], 0.0)
            if index is None:
                _add_soft(totals, samples, block, target[samples, :, voxels], chunk_valid, wanted.squared)
            else:
                _add_hard(totals, samples, block, index, chunk_valid)
            totals[1][samples] += block.square().sum(2) if wanted.squared else block.sum(2)
    overlap, predicted, present = (one.to(dtype) for one in totals)
    return Results(overlap, predicted, present, losses)


def _log_probability(block: Tensor, logits: Tensor, index: Tensor) -> Tensor:
    """The logarithm of the target's softmax, `[b, 1, s]`."""
    probability = block.gather(1, index)
    smallest = _smallest(block.dtype)
    if block.device.type == "cpu" and not bool((probability < smallest).any()):
        return probability.log()
    # A tiny probability is not exact, and may be 0. The largest one is at least 1 / C.
    log_sum = logits.amax(1, keepdim=True) - block.amax(1, keepdim=True).log()
    exact = logits.gather(1, index).to(block.dtype) - log_sum
    return torch.where(probability < smallest, exact, probability.log())


def _smallest(dtype: torch.dtype) -> float:
    """Softmax below this is 0 to every sum, but one can still divide by it."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _add_hard(totals: list[Tensor], samples: slice, block: Tensor, index: Tensor, valid: Tensor | None) -> None:
    """Add the overlap with, and the number of, class indices."""
    overlap, _, present = totals
    if adds_by_index(block.device):
        overlap[samples].scatter_add_(1, index.squeeze(1), block.gather(1, index).squeeze(1).to(overlap.dtype))
        counts = overlap.new_ones((1, 1)).expand(index.squeeze(1).shape) if valid is None else valid.to(overlap.dtype)
        present[samples].scatter_add_(1, index.squeeze(1), counts)
        return
    is_class = index == torch.arange(block.shape[1], device=block.device)[:, None]
    if valid is not None:
        is_class &= valid[:, None]
    overlap[samples] += torch.where(is_class, block, 0.0).sum(2)
    present[samples] += is_class.sum(2)


def _add_soft(
    totals: list[Tensor], samples: slice, block: Tensor, target: Tensor, valid: Tensor | None, squared: bool
) -> None:
    """Add the overlap with, and the sum of, probabilities."""
    overlap, _, present = totals
    truth = class_probabilities(target, valid, block.shape[1], block.dtype)
    overlap[samples] += (block * truth).sum(2)
    present[samples] += truth.square().sum(2) if squared else truth.sum(2)


def _gradient(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    wanted: Wanted,
    grad_overlap: Tensor,
    grad_predicted: Tensor,
    grad_losses: Tensor,
    probabilities: Tensor | None = None,
) -> Tensor:
    """The gradient by the logits; overwrites the probabilities if given them."""
    grad = torch.empty_like(logits) if probabilities is None else probabilities
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if probabilities is None:
            block = working_block(grad, chunk, accumulation_dtype(logits.dtype))
            _write_probabilities(logits[samples, :, voxels], wanted.activation, block)
        else:
            block = probabilities[samples, :, voxels]
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        at_target = None
        if wanted.gamma is not None and index is not None:
            # The slope of the voxel's loss by minus the log-probability of its class.
            at_target = grad_losses[samples, None, voxels]
            if wanted.gamma != 0:
                probability = block.gather(1, index).clamp(min=_smallest(block.dtype))
                at_target = at_target * focal_term_slope(probability.log(), wanted.gamma)
            at_target = _times_class_factor(at_target, index, class_factor)
        if wanted.sums:
            slope = grad_predicted[samples, :, None]  # by the probabilities
            slope = 2 * block * slope if wanted.squared else slope.repeat(1, 1, block.shape[2])
            if index is None:
                slope.addcmul_(grad_overlap[samples, :, None], target[samples, :, voxels].to(slope.dtype))
            else:
                by_target = grad_overlap[samples].gather(1, index.squeeze(1))[:, None]
                if at_target is not None:
                    probability = block.gather(1, index).clamp(min=_smallest(block.dtype))
                    block.scatter_(1, index, probability)
                    by_target = by_target - at_target / probability
                slope.scatter_add_(1, index, by_target)
            _through_activation(slope, block, wanted.activation)
        elif at_target is not None and index is not None:
            # The slope by the logits is p - 1 at the target and p elsewhere, times the slope above.
            block.mul_(at_target).scatter_add_(1, index, at_target.neg())
        if valid is not None:
            block.masked_fill_(~valid[samples, None, voxels], 0.0)
        store_block(grad, chunk, block)
    return grad


def _times_class_factor(values: Tensor, index: Tensor, class_factor: Tensor | None) -> Tensor:
    """A block's values, each times the factor of its class; both `[b, 1, s]`."""
    if class_factor is None:
        return values
    return values * class_factor.index_select(0, index.flatten()).view_as(index)


def _write_probabilities(logits: Tensor, activation: Activation, place: Tensor) -> None:
    if activation == "softmax":
        torch.softmax(logits, dim=1, dtype=place.dtype, out=place)
    elif activation == "sigmoid":
        place.copy_(logits).sigmoid_()
    else:
        place.copy_(logits)


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


def _formula(
    logits: Tensor, target: Tensor, valid: Tensor | None, class_factor: Tensor | None, wanted: Wanted
) -> list[Tensor]:
    """The differentiable results as expressions in torch's operations, for derivatives of derivatives."""
    logits = zero_where_invalid(logits, valid)
    truth = class_probabilities(target, valid, logits.shape[1], accumulation_dtype(logits.dtype))
    results = []
    if wanted.sums:
        probabilities = probabilities_of(logits, wanted.activation)
        if valid is not None:
            probabilities = torch.where(valid[:, None], probabilities, 0.0)
        results += [(probabilities * truth).sum(2), probabilities.pow(2 if wanted.squared else 1).sum(2)]
    if wanted.gamma is not None:
        log_probabilities = torch.log_softmax(logits, dim=1, dtype=accumulation_dtype(logits.dtype))
        losses = focal_term(torch.where(truth > 0, log_probabilities, 0.0).sum(1), wanted.gamma)
        factor = truth if class_factor is None else truth * class_factor[:, None]
        results.append(losses * factor.sum(1))
    return results


class _OnePass(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        target: Tensor,
        valid: Tensor | None,
        class_factor: Tensor | None,
        wanted: Wanted,
        probabilities: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return tuple(_forward(logits, target, valid, class_factor, wanted, probabilities))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.wanted, ctx.probabilities = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, target, valid, class_factor = ctx.saved_tensors
        wanted = ctx.wanted
        grads = (grad_outputs[0], grad_outputs[1], grad_outputs[3])
        # Overwritten by the first backward pass; a second one, after retain_graph=True, computes them again.
        probabilities, ctx.probabilities = ctx.probabilities, None
        if torch.is_grad_enabled():  # create_graph=True
            used = [*grads[: 2 if wanted.sums else 0], *grads[3 if wanted.gamma is None else 2 :]]
            grad = differentiable_gradient(
                lambda logits: _formula(logits, target, valid, class_factor, wanted), logits, used
            )
        else:
            grad = _gradient(logits, target, valid, class_factor, wanted, *grads, probabilities)
        return grad, None, None, None, None, None


# Forward and backward pass as one operation each, so that they are when compiled what they are when not. Traced, they
# would become loops that keep the softmax beside the gradient, and on a CPU take several times as long.
_ARGUMENTS = (
    "Tensor logits, Tensor target, Tensor? valid, Tensor? class_factor, str activation, bool sums, bool squared, "
    "float? gamma"
)


@torch.library.custom_op(
    "fuse_losses::one_pass", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _compiled_forward(logits: Tensor, target: Tensor, valid: Any, class_factor: Any, *wanted: Any) -> Any:
    return tuple(_forward(logits, target, valid, class_factor, Wanted(*wanted)))


@torch.library.custom_op(
    "fuse_losses::one_pass_gradient",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor grad_overlap, Tensor grad_predicted, Tensor grad_losses) -> Tensor",
)
def _compiled_gradient(logits: Tensor, target: Tensor, valid: Any, class_factor: Any, *others: Any) -> Tensor:
    return _gradient(logits, target, valid, class_factor, Wanted(*others[:4]), *others[4:])


@_compiled_forward.register_fake
def _(logits: Tensor, target: Tensor, *others: Any) -> tuple[Tensor, ...]:
    wanted = Wanted(*others[2:])
    dtype = accumulation_dtype(logits.dtype)
    sums = tuple(logits.new_empty(logits.shape[:2] if wanted.sums else (0,), dtype=dtype) for _ in range(3))
    return *sums, logits.new_empty((0,) if wanted.gamma is None else target.shape, dtype=dtype)


@_compiled_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    *tensors, ctx.activation, ctx.sums, ctx.squared, ctx.gamma = inputs
    ctx.save_for_backward(*tensors)


def _compiled_backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    wanted = (ctx.activation, ctx.sums, ctx.squared, ctx.gamma)
    grads = (grad_outputs[0], grad_outputs[1], grad_outputs[3])
    return _compiled_gradient(*ctx.saved_tensors, *wanted, *grads), *[None] * 7


_compiled_forward.register_autograd(_compiled_backward, setup_context=_keep_arguments)
