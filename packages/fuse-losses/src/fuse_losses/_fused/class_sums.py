"""The sums over voxels that Dice, Tversky and generalized Dice are made of, at the memory of their gradient."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .accumulation_dtype import accumulation_dtype, counting_dtype
from .dense_options import Activation
from .fused_gradient import differentiable_gradient, future_gradient, store_block, working_block
from .voxel_chunks import adds_by_index, class_index, voxel_chunks


class ClassSums(NamedTuple):
    """Sums over the valid voxels of each sample, for each class: all are `[B, C]`."""

    overlap: Tensor
    """Of probability times target: the true positives."""
    predicted: Tensor
    """Of the probabilities, squared if asked: true and false positives."""
    present: Tensor
    """Of the target, squared if asked: true positives and false negatives."""


def class_sums(
    logits: Tensor, target: Tensor, valid: Tensor | None, activation: Activation, squared: bool = False
) -> ClassSums:
    """Sum probabilities and target over voxels.

    At no time there is more memory of the logits' size than for their gradient. Where that can hold them, it holds the
    probabilities until the backward pass, which turns them into the gradient in place; otherwise the backward pass
    computes them again.

    Args:
        logits: `[B, C, S]`.
        target: class indices `[B, S]`, which may hold anything where not valid, or probabilities `[B, C, S]`.
        valid: which voxels count, bool `[B, S]`; None is all.
        activation: see `DenseOptions`.
        squared: sum squares of probabilities and of target, not themselves, outside of the overlap.

    Returns:
        Three tensors `[B, C]`, float64 for float64 logits, else float32.
    """
    if torch.compiler.is_compiling():
        return ClassSums(*_compiled_sums(logits, target, valid, activation, squared))
    probabilities = None if activation == "none" else future_gradient(logits)
    return ClassSums(*_ClassSums.apply(logits, target, valid, activation, squared, probabilities))  # type: ignore[no-untyped-call]


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


def _sums(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    activation: Activation,
    squared: bool,
    probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three sums; writes the probabilities `[B, C, S]` if given a place for them."""
    # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
    wide = counting_dtype(logits.device)
    overlap, predicted, present = (logits.new_zeros(logits.shape[:2], dtype=wide) for _ in range(3))
    one = logits.new_ones((1, 1), dtype=wide)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
    if probabilities is not None:
        _write_probabilities(logits, activation, probabilities)
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if probabilities is None:
            block = probabilities_of(logits[samples, :, voxels], activation)
        else:
            block = probabilities[samples, :, voxels]
        chunk_valid = None if valid is None else valid[chunk]
        if chunk_valid is not None:
            block = block.masked_fill(~chunk_valid[:, None], 0.0)
        if target.ndim == 2:
            index = class_index(target, valid, chunk)
            if adds_by_index(index.device):
                overlap[samples].scatter_add_(1, index, block.gather(1, index[:, None]).squeeze(1).to(wide))
                counts = one.expand(index.shape) if chunk_valid is None else chunk_valid.to(wide)
                present[samples].scatter_add_(1, index, counts)
            else:
                is_class = index[:, None] == classes
                if chunk_valid is not None:
                    is_class &= chunk_valid[:, None]
                overlap[samples] += torch.where(is_class, block, 0.0).sum(2)
                present[samples] += is_class.sum(2)
        else:
            truth = class_probabilities(target[samples, :, voxels], chunk_valid, logits.shape[1], block.dtype)
            overlap[samples] += (block * truth).sum(2)
            present[samples] += truth.square().sum(2) if squared else truth.sum(2)
        predicted[samples] += block.square().sum(2) if squared else block.sum(2)
    dtype = accumulation_dtype(logits.dtype)
    return overlap.to(dtype), predicted.to(dtype), present.to(dtype)


def _gradient(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    activation: Activation,
    squared: bool,
    grad_overlap: Tensor,
    grad_predicted: Tensor,
    probabilities: Tensor | None = None,
) -> Tensor:
    """The gradient by the logits; overwrites the probabilities if given them."""
    grad = torch.empty_like(logits) if probabilities is None else probabilities
    for chunk in voxel_chunks(logits.shape, logits.device):
        samples, voxels = chunk
        if probabilities is None:
            block = working_block(grad, chunk, accumulation_dtype(logits.dtype))
            _write_probabilities(logits[samples, :, voxels], activation, block)
        else:
            block = probabilities[samples, :, voxels]
        slope = grad_predicted[samples, :, None]  # by the probabilities
        slope = 2 * block * slope if squared else slope.repeat(1, 1, block.shape[2])
        if target.ndim == 2:
            index = class_index(target, valid, chunk)
            slope.scatter_add_(1, index[:, None], grad_overlap[samples].gather(1, index)[:, None])
        else:
            slope.addcmul_(grad_overlap[samples, :, None], target[samples, :, voxels].to(slope.dtype))
        _through_activation(slope, block, activation)
        if valid is not None:
            block.masked_fill_(~valid[samples, None, voxels], 0.0)
        store_block(grad, chunk, block)
    return grad


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
    logits: Tensor, target: Tensor, valid: Tensor | None, activation: Activation, squared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same sums as one expression, for derivatives of derivatives."""
    probabilities = probabilities_of(zero_where_invalid(logits, valid), activation)
    if valid is not None:
        probabilities = torch.where(valid[:, None], probabilities, 0.0)
    truth = class_probabilities(target, valid, logits.shape[1], probabilities.dtype)
    power = 2 if squared else 1
    return (probabilities * truth).sum(2), probabilities.pow(power).sum(2), truth.pow(power).sum(2)


class _ClassSums(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        target: Tensor,
        valid: Tensor | None,
        activation: Activation,
        squared: bool,
        probabilities: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _sums(logits, target, valid, activation, squared, probabilities)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, target, valid, ctx.activation, ctx.squared, ctx.probabilities = inputs
        ctx.save_for_backward(logits, target, valid)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, target, valid = ctx.saved_tensors
        grad_overlap, grad_predicted, _ = grad_outputs
        # Overwritten by the first backward pass; a second one, after retain_graph=True, computes them again.
        probabilities, ctx.probabilities = ctx.probabilities, None
        if torch.is_grad_enabled():  # create_graph=True
            grad = differentiable_gradient(
                lambda logits: _formula(logits, target, valid, ctx.activation, ctx.squared)[:2],
                logits,
                (grad_overlap, grad_predicted),
            )
        else:
            grad = _gradient(
                logits, target, valid, ctx.activation, ctx.squared, grad_overlap, grad_predicted, probabilities
            )
        return grad, None, None, None, None, None


# Forward and backward pass as one operation each, so that they are when compiled what they are when not. Traced, they
# would become loops that keep the softmax beside the gradient, and on a CPU take several times as long.
_ARGUMENTS = "Tensor logits, Tensor target, Tensor? valid, str activation, bool squared"


@torch.library.custom_op(
    "fuse_losses::class_sums", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)"
)
def _compiled_sums(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _sums(*arguments)


@torch.library.custom_op(
    "fuse_losses::class_sums_gradient",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor grad_overlap, Tensor grad_predicted) -> Tensor",
)
def _compiled_gradient(*arguments: Any) -> Tensor:
    return _gradient(*arguments)


@_compiled_sums.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(logits.new_empty(logits.shape[:2], dtype=accumulation_dtype(logits.dtype)) for _ in range(3))


@_compiled_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    logits, target, valid, ctx.activation, ctx.squared = inputs
    ctx.save_for_backward(logits, target, valid)


def _compiled_backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
    grads = grad_outputs[:2]
    return _compiled_gradient(*ctx.saved_tensors, ctx.activation, ctx.squared, *grads), None, None, None, None


_compiled_sums.register_autograd(_compiled_backward, setup_context=_keep_arguments)
