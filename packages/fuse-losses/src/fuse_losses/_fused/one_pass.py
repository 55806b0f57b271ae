"""One pass over the logits for all that dense losses are made of, at the memory of the gradient.

There are two kinds of results. Dice and its relatives need sums over voxels for each class. Cross-entropy and focal
loss need a loss for each voxel. Both come from the same probabilities, which are computed once. The memory of the
gradient holds the probabilities until the backward pass, which turns them into the gradient in place. Where it cannot
hold them, as in half precision, the backward pass computes them again.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from .blocks import (
    Chunk,
    accumulation_dtype,
    adds_by_index,
    class_index,
    counting_dtype,
    future_gradient,
    store_block,
    values_may_be_read,
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
    """The exponent of the focal losses of the voxels, 0 for cross-entropy; None for no such losses. They need a
    softmax, and for another exponent than 0 class indices."""


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
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    wanted: Wanted,
    class_factor: Tensor | None = None,
    voxel_weights: Tensor | None = None,
) -> Results:
    """Compute the sums over voxels and the losses of voxels.

    Args:
        logits: `[B, C, S]`.
        target: class indices `[B, S]`, which may hold anything where not valid, or probabilities `[B, C, S]`.
        valid: which voxels count, bool `[B, S]`, or with a target of probabilities `[B, C, S]`; None is all.
        wanted: what to compute.
        class_factor: a factor for the losses of the voxels of each class, `[C]`; None is 1.
        voxel_weights: a factor of each voxel in the sums, `[B, S]`; None is 1.
    """
    if torch.compiler.is_compiling():
        return Results(*_compiled_forward(logits, target, valid, class_factor, voxel_weights, *wanted))
    probabilities = None if wanted.activation == "none" else future_gradient(logits)
    return Results(
        *_OnePass.apply(  # type: ignore[no-untyped-call]
            logits, target, valid, class_factor, voxel_weights, wanted, probabilities
        )
    )


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
    return target if valid is None else torch.where(by_class(valid), target, 0.0)


def zero_where_invalid(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Logits `[B, C, S]` with 0 where not valid: a gradient of 0 would not stay 0 through NaN or infinity there."""
    return logits if valid is None else torch.where(by_class(valid), logits, 0.0)


def by_class(voxels: Tensor) -> Tensor:
    """`[B, S]` or `[B, C, S]` as `[B, 1, S]` or `[B, C, S]`."""
    return voxels[:, None] if voxels.ndim == 2 else voxels


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
    """The results; writes the probabilities `[B, C, S]` if given a place for them. With `whole` in a single block."""
    dtype = accumulation_dtype(logits.dtype)
    # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
    shape = logits.shape[:2] if wanted.sums else (0,)
    totals = [logits.new_zeros(shape, dtype=counting_dtype(logits.device)) for _ in range(3)]
    losses = logits.new_empty((0,) if wanted.gamma is None else logits.shape[::2], dtype=dtype)
    if probabilities is not None:
        _write_probabilities(logits, wanted.activation, probabilities)
    for chunk in _chunks(logits, target, whole):
        samples, voxels = chunk
        if probabilities is None:
            block = probabilities_of(logits[samples, :, voxels], wanted.activation)
        else:
            block = probabilities[samples, :, voxels]
        chunk_valid = _block(valid, chunk)
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        if wanted.gamma is not None:
            if index is not None:
                log_probability = _log_probability(block, logits[samples, :, voxels], index)
                terms = _times_class_factor(focal_term(log_probability, wanted.gamma), index, class_factor)
            else:
                truth = _weighted_truth(target, chunk_valid, chunk, block, class_factor)
                log_probabilities = torch.log_softmax(logits[samples, :, voxels], 1, dtype=dtype)
                terms = torch.where(truth == 0, 0.0, log_probabilities.mul_(truth)).sum(1, keepdim=True).neg_()
            if chunk_valid is not None and chunk_valid.shape[1] == 1:
                terms = torch.where(chunk_valid, terms, 0.0)
            losses[chunk] = terms.squeeze(1)
        if wanted.sums:
            weights = _block(voxel_weights, chunk)
            if chunk_valid is not None:
                block = block.masked_fill(~chunk_valid, 0.0)
            if index is None:
                _add_soft(totals, samples, block, target[samples, :, voxels], chunk_valid, weights, wanted.squared)
            else:
                _add_hard(totals, samples, block, index, chunk_valid, weights)
            block = block.square() if wanted.squared else block
            totals[1][samples] += (block if weights is None else block * weights).sum(2)
    overlap, predicted, present = (one.to(dtype) for one in totals)
    return Results(overlap, predicted, present, losses)


def _chunks(logits: Tensor, target: Tensor, whole: bool) -> Iterable[Chunk]:
    """The blocks of voxels; smaller ones for a target of probabilities, which takes more temporaries."""
    samples, classes, voxels = logits.shape
    if whole:
        return [(slice(0, samples), slice(0, voxels))]
    return voxel_chunks(torch.Size((samples, classes * (2 if target.ndim == 3 else 1), voxels)), logits.device)


def _log_probability(block: Tensor, logits: Tensor, index: Tensor) -> Tensor:
    """The logarithm of the target's softmax, `[b, 1, s]`."""
    probability = block.gather(1, index)
    smallest = _smallest(block.dtype)
    if values_may_be_read(block, validate=False) and bool(probability.amin() >= smallest):
        return probability.log()
    # A tiny probability is not exact, and may be 0. The largest one is at least 1 / C.
    log_sum = logits.amax(1, keepdim=True) - block.amax(1, keepdim=True).log()
    exact = logits.gather(1, index).to(block.dtype) - log_sum
    return torch.where(probability < smallest, exact, probability.log())


def _smallest(dtype: torch.dtype) -> float:
    """Softmax below this is 0 to every sum, but one can still divide by it."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _block(voxels: Tensor | None, chunk: Chunk) -> Tensor | None:
    """The block `[b, 1, s]` of `[B, S]`, or `[b, C, s]` of `[B, C, S]`."""
    if voxels is None:
        return None
    samples, places = chunk
    return voxels[samples, None, places] if voxels.ndim == 2 else voxels[samples, :, places]


def _weighted_truth(
    target: Tensor, valid: Tensor | None, chunk: Chunk, block: Tensor, class_factor: Tensor | None
) -> Tensor:
    """A block of a target of probabilities, each times the factor of its class."""
    truth = class_probabilities(target[chunk[0], :, chunk[1]], valid, block.shape[1], block.dtype)
    return truth if class_factor is None else truth * class_factor[:, None]


def _add_hard(
    totals: list[Tensor], samples: slice, block: Tensor, index: Tensor, valid: Tensor | None, weights: Tensor | None
) -> None:
    """Add the overlap with, and the number of, class indices."""
    overlap, _, present = totals
    if adds_by_index(block.device):
        hit = block.gather(1, index) if weights is None else block.gather(1, index) * weights
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


def soft_overlap(probabilities: Tensor, truth: Tensor, squared: bool) -> Tensor:
    r"""The overlap of two probabilities.

    It is $(p + y - |p - y|) / 2$, the smaller of the two (Wang et al. 2023, "Jaccard Metric Losses: Optimizing the
    Jaccard Index with Soft Labels", eq. 5), so that Dice and its relatives are perfect at p = y for a soft y too. For a
    y of 0 or 1 it is the product. With squares in the denominator the product is right for every y.
    """
    return probabilities * truth if squared else torch.minimum(probabilities, truth)


def _soft_overlap_slope(probabilities: Tensor, truth: Tensor, squared: bool) -> Tensor:
    """The derivative of `soft_overlap` by the probabilities; where they are equal, that of the product."""
    if squared:
        return truth
    return torch.where(probabilities == truth, truth, (probabilities < truth).to(truth.dtype))


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
    """The gradient by the logits; overwrites the probabilities if given them. With `whole` in a single block."""
    grad = torch.empty_like(logits) if probabilities is None else probabilities
    for chunk in _chunks(logits, target, whole):
        samples, voxels = chunk
        if probabilities is None:
            block = working_block(grad, chunk, accumulation_dtype(logits.dtype))
            _write_probabilities(logits[samples, :, voxels], wanted.activation, block)
        else:
            block = probabilities[samples, :, voxels]
        index = class_index(target, valid, chunk)[:, None] if target.ndim == 2 else None
        chunk_valid = _block(valid, chunk)
        at_target = added = None
        if wanted.gamma is not None:
            at_target = grad_losses[samples, None, voxels]
            if index is None:
                truth = _weighted_truth(target, chunk_valid, chunk, block, class_factor) * at_target
                added = (block * truth.sum(1, keepdim=True)).sub_(truth)
            else:
                at_target = _slope_at_target(at_target, block, index, class_factor, wanted.gamma)
        if wanted.sums:
            slope = grad_predicted[samples, :, None]  # by the probabilities
            slope = 2 * block * slope if wanted.squared else slope.repeat(1, 1, block.shape[2])
            weights = _block(voxel_weights, chunk)
            if weights is not None:
                slope.mul_(weights)
            if index is None:
                truth = target[samples, :, voxels].to(slope.dtype)
                common = _soft_overlap_slope(block, truth, wanted.squared)
                common = common if weights is None else common * weights
                slope.addcmul_(grad_overlap[samples, :, None], common)
            else:
                by_target = grad_overlap[samples].gather(1, index.squeeze(1))[:, None]
                if at_target is not None:
                    # One more term by the probability, so that the softmax's backward pass serves both.
                    probability = block.gather(1, index).clamp(min=_smallest(block.dtype))
                    block.scatter_(1, index, probability)
                    by_target = (by_target if weights is None else by_target * weights) - at_target / probability
                elif weights is not None:
                    by_target = by_target * weights
                slope.scatter_add_(1, index, by_target)
            if chunk_valid is not None and chunk_valid.shape[1] != 1:
                slope.masked_fill_(~chunk_valid, 0.0)
            _through_activation(slope, block, wanted.activation)
            if added is not None:
                block.add_(added)
        elif added is not None:
            block.copy_(added)
        elif at_target is not None and index is not None:
            # The slope by the logits is p - 1 at the target and p elsewhere, times that of the voxel's loss.
            block.mul_(at_target).scatter_add_(1, index, at_target.neg())
        if chunk_valid is not None and (chunk_valid.shape[1] == 1 or wanted.activation != "softmax"):
            block.masked_fill_(~chunk_valid, 0.0)
        store_block(grad, chunk, block)
    return grad


def _slope_at_target(
    grad_losses: Tensor, block: Tensor, index: Tensor, class_factor: Tensor | None, gamma: float
) -> Tensor:
    """The slope of the voxels' losses by minus the log-probability of their class, `[b, 1, s]`."""
    if gamma != 0:
        probability = block.gather(1, index).clamp(min=_smallest(block.dtype))
        grad_losses = grad_losses * focal_term_slope(probability.log(), gamma)
    return _times_class_factor(grad_losses, index, class_factor)


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
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
    wanted: Wanted,
) -> list[Tensor]:
    """The differentiable results as expressions in torch's operations, for derivatives of derivatives."""
    if valid is not None and (valid.ndim == 2 or wanted.activation != "softmax"):
        logits = zero_where_invalid(logits, valid)
    truth = class_probabilities(target, valid, logits.shape[1], accumulation_dtype(logits.dtype))
    results = []
    if wanted.sums:
        probabilities = zero_where_invalid(probabilities_of(logits, wanted.activation), valid)
        common = soft_overlap(probabilities, truth, wanted.squared or not target.is_floating_point())
        sums = [common, probabilities.pow(2 if wanted.squared else 1)]
        results += [(one if voxel_weights is None else one * voxel_weights[:, None]).sum(2) for one in sums]
    if wanted.gamma is not None:
        log_probabilities = torch.log_softmax(logits, dim=1, dtype=accumulation_dtype(logits.dtype))
        losses = torch.where(truth > 0, truth * focal_term(log_probabilities, wanted.gamma), 0.0)
        results.append((losses if class_factor is None else losses * class_factor[:, None]).sum(1))
    return results


class _OnePass(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        target: Tensor,
        valid: Tensor | None,
        class_factor: Tensor | None,
        voxel_weights: Tensor | None,
        wanted: Wanted,
        probabilities: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return tuple(pass_forward(logits, target, valid, class_factor, voxel_weights, wanted, probabilities))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.wanted, ctx.probabilities = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Raise: there are no forward-mode derivatives."""
        raise NotImplementedError("Dense losses have no forward-mode derivatives (jvp). Use torch.func.grad or vjp.")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *_: Any) -> Any:
        """Raise: the losses take batches."""
        raise NotImplementedError(
            "Dense losses take batches as they are, not in torch.vmap. reduction='none' keeps samples apart."
        )

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        tensors: Any = ctx.saved_tensors
        wanted = ctx.wanted
        grads = (grad_outputs[0], grad_outputs[1], grad_outputs[3])
        # Overwritten by the first backward pass; a second one, after retain_graph=True, computes them again.
        probabilities, ctx.probabilities = ctx.probabilities, None
        if torch.is_grad_enabled():  # create_graph=True
            used = [*grads[: 2 if wanted.sums else 0], *grads[3 if wanted.gamma is None else 2 :]]
            grad = differentiable_gradient(
                lambda logits: cast(Any, _formula)(logits, *tensors[1:], wanted), tensors[0], used
            )
        else:
            grad = cast(Any, pass_backward)(*tensors, wanted, *grads, probabilities)
        return grad, None, None, None, None, None, None


# Forward and backward pass as one operation each, so that they are when compiled what they are when not. Traced, they
# would become loops that keep the softmax beside the gradient, and on a CPU take several times as long.
_ARGUMENTS = (
    "Tensor logits, Tensor target, Tensor? valid, Tensor? class_factor, Tensor? voxel_weights, str activation, "
    "bool sums, bool squared, float? gamma"
)


@torch.library.custom_op(
    "fuse_losses::one_pass", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _compiled_forward(*arguments: Any) -> Any:
    tensors, wanted = arguments[:5], Wanted(*arguments[5:])
    return tuple(cast(Any, pass_forward)(*tensors, wanted))


@torch.library.custom_op(
    "fuse_losses::one_pass_gradient",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor grad_overlap, Tensor grad_predicted, Tensor grad_losses) -> Tensor",
)
def _compiled_gradient(*arguments: Any) -> Tensor:
    tensors, wanted, grads = arguments[:5], Wanted(*arguments[5:9]), arguments[9:]
    return cast(Tensor, cast(Any, pass_backward)(*tensors, wanted, *grads))


@_compiled_forward.register_fake
def _(logits: Tensor, *others: Any) -> tuple[Tensor, ...]:
    wanted = Wanted(*others[4:])
    dtype = accumulation_dtype(logits.dtype)
    sums = tuple(logits.new_empty(logits.shape[:2] if wanted.sums else (0,), dtype=dtype) for _ in range(3))
    return *sums, logits.new_empty((0,) if wanted.gamma is None else logits.shape[::2], dtype=dtype)


@_compiled_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    *tensors, ctx.activation, ctx.sums, ctx.squared, ctx.gamma = inputs
    ctx.save_for_backward(*tensors)


def _compiled_backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    wanted = (ctx.activation, ctx.sums, ctx.squared, ctx.gamma)
    grads = (grad_outputs[0], grad_outputs[1], grad_outputs[3])
    return _compiled_gradient(*ctx.saved_tensors, *wanted, *grads), *[None] * 8


_compiled_forward.register_autograd(_compiled_backward, setup_context=_keep_arguments)
