"""The results of one pass for logits that a linear layer makes, which never exist whole.

For each block of voxels the logits are made, used and dropped, in the forward pass and again in the backward pass.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd.function import once_differentiable

from .block_passes import Results, Wanted, pass_backward, pass_forward
from .device_rules import accumulation_dtype, counting_dtype, voxel_chunks
from .memory_saving_gradient import ReverseModeFunction


def linear_pass(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    valid: Tensor | None,
    wanted: Wanted,
    class_factor: Tensor | None,
    voxel_weights: Tensor | None,
) -> Results:
    """`one_pass` of the logits `weight @ features + bias`.

    Args:
        features: `[B, F, S]`.
        weight: `[C, F]`.
        bias: `[C]`; None is 0.
        target: see `one_pass`, as the following.
        valid: which voxels count.
        wanted: what to compute.
        class_factor: a factor for the losses of the voxels of each class.
        voxel_weights: a factor of each voxel in the sums.
    """
    tensors = (features, weight, bias, target, valid, class_factor, voxel_weights)
    if torch.compiler.is_compiling():
        return Results(*_compiled_forward(*tensors, *wanted))
    return Results(*_LinearPass.apply(*tensors, wanted))  # type: ignore[no-untyped-call]


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The logits `[b, C, s]` of a block of features, contiguous, which `torch.matmul` would not give."""
    weight = weight.to(dtype).expand(len(features), -1, -1)
    with torch.autocast(features.device.type, enabled=False):
        if bias is None:
            return torch.bmm(weight, features.to(dtype))
        return torch.baddbmm(bias.to(dtype)[:, None], weight, features.to(dtype))


def _part(tensor: Tensor | None, chunk: tuple[slice, slice]) -> Tensor | None:
    """The block of `[B, S]` or of `[B, C, S]`."""
    if tensor is None:
        return None
    return tensor[chunk] if tensor.ndim == 2 else tensor[chunk[0], :, chunk[1]]


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, wanted = arguments
    features, weight, bias, target, valid, class_factor, voxel_weights = tensors
    shape = torch.Size((len(features), len(weight), features.shape[2]))
    dtype = _dtype(features, weight)
    size = shape[:2] if wanted.sums else (0,)
    sums = [features.new_zeros(size, dtype=counting_dtype(features.device)) for _ in range(3)]
    losses = features.new_empty((0,) if wanted.gamma is None else shape[::2], dtype=dtype)
    for chunk in voxel_chunks(shape, features.device):
        logits = _logits(cast(Tensor, _part(features, chunk)), weight, bias, dtype)
        others = (_part(target, chunk), _part(valid, chunk), class_factor, _part(voxel_weights, chunk))
        results = cast(Any, pass_forward)(logits, *others, wanted, whole=True)
        if wanted.gamma is not None:
            losses[chunk] = results.losses
        if wanted.sums:
            for total, block in zip(sums, results[:3], strict=True):
                total[chunk[0]] += block
    return *(one.to(dtype) for one in sums), losses


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of features, weight and bias. The bias's is returned even if there is no bias."""
    *tensors, wanted, grad_overlap, grad_predicted, grad_losses = arguments
    features, weight, bias, target, valid, class_factor, voxel_weights = tensors
    shape = torch.Size((len(features), len(weight), features.shape[2]))
    dtype = _dtype(features, weight)
    grad_features = torch.empty_like(features)
    grad_weight = torch.zeros_like(weight, dtype=dtype)
    grad_bias = weight.new_zeros(len(weight), dtype=dtype)
    for chunk in voxel_chunks(shape, features.device):
        samples, voxels = chunk
        block = features[samples, :, voxels].to(dtype)
        logits = _logits(block, weight, bias, dtype)
        others = (_part(target, chunk), _part(valid, chunk), class_factor, _part(voxel_weights, chunk))
        sums = [one[samples] if wanted.sums else one for one in (grad_overlap, grad_predicted)]
        of_losses = grad_losses if wanted.gamma is None else grad_losses[chunk]
        slope = cast(Any, pass_backward)(logits, *others, wanted, *sums, of_losses, whole=True)
        with torch.autocast(features.device.type, enabled=False):
            transposed = weight.to(dtype).T.expand(len(slope), -1, -1)
            grad_features[samples, :, voxels] = torch.bmm(transposed, slope)
            grad_weight += torch.bmm(slope, block.mT).sum(0)
        grad_bias += slope.sum((0, 2))
    return grad_features, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype if bias is None else bias.dtype)


def _dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    """The type of the logits."""
    return accumulation_dtype(torch.promote_types(features.dtype, weight.dtype))


class _LinearPass(ReverseModeFunction):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.wanted = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if any(map(is_batchedtensor, grads)):
            raise NotImplementedError(
                "linear_compound_loss has no jacrev. Use torch.func.grad or vjp, or compound_loss of the logits."
            )
        *found, of_bias = _backward(*ctx.saved_tensors, ctx.wanted, grads[0], grads[1], grads[3])
        return *found, None if ctx.saved_tensors[2] is None else of_bias, *[None] * 5


# One operation to the compiler each way, as in memory_saving_gradient.py: traced, the loop would keep all logits.
_ARGUMENTS = (
    "Tensor features, Tensor weight, Tensor? bias, Tensor target, Tensor? valid, Tensor? class_factor, "
    "Tensor? voxel_weights, str activation, bool sums, bool squared, float? gamma"
)


@torch.library.custom_op(
    "fuse_losses::linear_pass", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _compiled_forward(*arguments: Any) -> Any:
    return _forward(*arguments[:7], Wanted(*arguments[7:]))


@torch.library.custom_op(
    "fuse_losses::linear_pass_gradient",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor grad_overlap, Tensor grad_predicted, Tensor grad_losses) "
    "-> (Tensor, Tensor, Tensor)",
)
def _compiled_gradient(*arguments: Any) -> Any:
    return _backward(*arguments[:7], Wanted(*arguments[7:11]), *arguments[11:])


@_compiled_forward.register_fake
def _(features: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    wanted, dtype = Wanted(*others[5:]), _dtype(features, weight)
    shape = (len(features), len(weight), features.shape[2])
    sums = tuple(features.new_empty(shape[:2] if wanted.sums else (0,), dtype=dtype) for _ in range(3))
    return *sums, features.new_empty((0,) if wanted.gamma is None else shape[::2], dtype=dtype)


@_compiled_gradient.register_fake
def _(features: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    of_bias = weight.new_empty(len(weight), dtype=weight.dtype if bias is None else bias.dtype)
    return torch.empty_like(features), torch.empty_like(weight), of_bias


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:7])
    ctx.wanted = inputs[7:]


def _compiled_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    *found, of_bias = _compiled_gradient(*ctx.saved_tensors, *ctx.wanted, grads[0], grads[1], grads[3])
    return *found, None if ctx.saved_tensors[2] is None else of_bias, *[None] * 8


_compiled_forward.register_autograd(_compiled_backward, setup_context=_keep_arguments)
