"""The results of one pass for logits that a linear layer makes, which never exist whole.

For each block of voxels the logits are made, used and dropped, in the forward pass and again in the backward pass.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd.function import once_differentiable

from .blocks import accumulation_dtype, counting_dtype, voxel_chunks
from .gradient import ReverseModeFunction
from .pass_backward import pass_backward
from .pass_forward import pass_forward
from .results import Results, Wanted


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


class _LinearPass(ReverseModeFunction):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, wanted = arguments
        features, weight, bias, target, valid, class_factor, voxel_weights = tensors
        shape = torch.Size((len(features), len(weight), features.shape[2]))
        dtype = accumulation_dtype(torch.promote_types(features.dtype, weight.dtype))
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

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.wanted = inputs
        ctx.save_for_backward(*tensors)
        ctx.shape = torch.Size((len(tensors[0]), len(tensors[1]), tensors[0].shape[2]))
        ctx.dtype = output[3].dtype
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, target, valid, class_factor, voxel_weights = ctx.saved_tensors
        if any(map(is_batchedtensor, grads)):
            raise NotImplementedError(
                "linear_compound_loss has no jacrev. Use torch.func.grad or vjp, or compound_loss of the logits."
            )
        grad_features = torch.empty_like(features)
        grad_weight = torch.zeros_like(weight, dtype=ctx.dtype)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=ctx.dtype)
        for chunk in voxel_chunks(ctx.shape, features.device):
            samples, voxels = chunk
            block = features[samples, :, voxels].to(ctx.dtype)
            logits = _logits(block, weight, bias, ctx.dtype)
            others = (_part(target, chunk), _part(valid, chunk), class_factor, _part(voxel_weights, chunk))
            sums = [one[samples] if ctx.wanted.sums else one for one in grads[:2]]
            of_losses = grads[3] if ctx.wanted.gamma is None else grads[3][chunk]
            slope = cast(Any, pass_backward)(logits, *others, ctx.wanted, *sums, of_losses, whole=True)
            with torch.autocast(features.device.type, enabled=False):
                transposed = weight.to(ctx.dtype).T.expand(len(slope), -1, -1)
                grad_features[samples, :, voxels] = torch.bmm(transposed, slope)
                grad_weight += torch.bmm(slope, block.mT).sum(0)
            if grad_bias is not None:
                grad_bias += slope.sum((0, 2))
        grad_bias = None if bias is None else cast(Tensor, grad_bias).to(bias.dtype)
        return grad_features, grad_weight.to(weight.dtype), grad_bias, None, None, None, None, None
