"""The sums over voxels that Dice, Tversky and generalized Dice are made of, at the memory of their gradient."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .dense_options import Activation
from .voxel_chunks import accumulation_dtype, class_index, store_block, voxel_chunks, working_block


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

    Only the arguments are kept for the backward pass, which computes the probabilities again, into the gradient.

    Args:
        logits: `[B, C, S]`.
        target: class indices `[B, S]`, which may hold anything where not valid, or probabilities `[B, C, S]`.
        valid: which voxels count, bool `[B, S]`; None is all.
        activation: see `DenseOptions`.
        squared: sum squares of probabilities and of target, not themselves, outside of the overlap.

    Returns:
        Three tensors `[B, C]`, float64 for float64 logits, else float32.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the formula by itself
        return _formula(logits, target, valid, activation, squared)
    return ClassSums(*_ClassSums.apply(logits, target, valid, activation, squared))  # type: ignore[no-untyped-call]


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


def _formula(logits: Tensor, target: Tensor, valid: Tensor | None, activation: Activation, squared: bool) -> ClassSums:
    """The same as one expression, for the compiler and for derivatives of derivatives."""
    probabilities = probabilities_of(logits, activation)
    if valid is not None:
        probabilities = torch.where(valid[:, None], probabilities, 0.0)
    truth = class_probabilities(target, valid, logits.shape[1], probabilities.dtype)
    power = 2 if squared else 1
    return ClassSums((probabilities * truth).sum(2), probabilities.pow(power).sum(2), truth.pow(power).sum(2))


class _ClassSums(Function):
    @staticmethod
    def forward(
        logits: Tensor, target: Tensor, valid: Tensor | None, activation: Activation, squared: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Sums of blocks are summed in float64 where there is such a thing: it costs nothing at this size.
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        overlap, predicted, present = (logits.new_zeros(logits.shape[:2], dtype=wide) for _ in range(3))
        one = logits.new_ones((1, 1), dtype=wide)
        for chunk in voxel_chunks(logits.shape, logits.device):
            samples, voxels = chunk
            probabilities = probabilities_of(logits[samples, :, voxels], activation)
            chunk_valid = None if valid is None else valid[chunk]
            if chunk_valid is not None:
                probabilities = torch.where(chunk_valid[:, None], probabilities, 0.0)
            if target.ndim == 2:
                index = class_index(target, valid, chunk)
                overlap[samples].scatter_add_(1, index, probabilities.gather(1, index[:, None]).squeeze(1).to(wide))
                counts = one.expand(index.shape) if chunk_valid is None else chunk_valid.to(wide)
                present[samples].scatter_add_(1, index, counts)
            else:
                chunk_target = target[samples, :, voxels]
                truth = class_probabilities(chunk_target, chunk_valid, logits.shape[1], probabilities.dtype)
                overlap[samples] += (probabilities * truth).sum(2)
                present[samples] += truth.square().sum(2) if squared else truth.sum(2)
            predicted[samples] += probabilities.square().sum(2) if squared else probabilities.sum(2)
        dtype = accumulation_dtype(logits.dtype)
        return overlap.to(dtype), predicted.to(dtype), present.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, target, valid, activation, squared = inputs
        ctx.save_for_backward(logits, target, valid)
        ctx.activation, ctx.squared = activation, squared
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, target, valid = ctx.saved_tensors
        grad_overlap, grad_predicted, _ = grad_outputs
        if torch.is_grad_enabled():  # create_graph=True
            sums = _formula(logits, target, valid, ctx.activation, ctx.squared)
            grads = (grad_overlap, grad_predicted)
            (grad,) = torch.autograd.grad(sums[:2], logits, grads, create_graph=True)
            return grad, None, None, None, None
        grad = torch.empty_like(logits)
        for chunk in voxel_chunks(logits.shape, logits.device):
            samples, voxels = chunk
            block = working_block(grad, chunk, accumulation_dtype(logits.dtype))
            _write_probabilities(logits[samples, :, voxels], ctx.activation, block)
            slope = grad_predicted[samples, :, None]  # by the probabilities
            slope = (
                2 * block * slope
                if ctx.squared
                else slope.expand_as(block).clone(memory_format=torch.contiguous_format)
            )
            if target.ndim == 2:
                index = class_index(target, valid, chunk)
                slope.scatter_add_(1, index[:, None], grad_overlap[samples].gather(1, index)[:, None])
            else:
                slope.addcmul_(grad_overlap[samples, :, None], target[samples, :, voxels].to(slope.dtype))
            if valid is not None:
                slope.masked_fill_(~valid[samples, None, voxels], 0.0)
            _through_activation(slope, block, ctx.activation)
            store_block(grad, chunk, block)
        return grad, None, None, None, None


def _write_probabilities(logits: Tensor, activation: Activation, block: Tensor) -> None:
    if activation == "softmax":
        torch.softmax(logits, dim=1, dtype=block.dtype, out=block)
    elif activation == "sigmoid":
        block.copy_(logits).sigmoid_()
    else:
        block.copy_(logits)


def _through_activation(slope: Tensor, block: Tensor, activation: Activation) -> None:
    """Replace the probabilities in the block by the slope by the logits, given that by the probabilities."""
    if activation == "softmax":
        slope -= (slope * block).sum(1, keepdim=True)
        block *= slope
    elif activation == "sigmoid":
        slope -= slope * block
        block *= slope
    else:
        block.copy_(slope)
