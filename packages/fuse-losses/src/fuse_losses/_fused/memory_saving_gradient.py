"""One pass over the logits for all that dense losses are made of, at the memory of the gradient.

There are two kinds of results. Dice and its relatives need sums over voxels for each class. Cross-entropy and focal
loss need a loss for each voxel. Both come from the same probabilities, which are computed once. The memory of the
gradient holds the probabilities until the backward pass, which turns them into the gradient in place. Where it cannot
hold them, as in half precision, the backward pass computes them again.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from .block_passes import Results, Wanted, pass_backward, pass_forward
from .device_rules import accumulation_dtype, kernels_for
from .focal_term import focal_term
from .probabilities import class_probabilities, probabilities_of, soft_overlap, zero_where_invalid


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
    in_blocks = wanted.activation != "none" and kernels_for(logits, target, wanted.activation) is None
    tensors = (logits, target, valid, class_factor, voxel_weights)
    results = _OnePass.apply(*tensors, wanted, _future_gradient(logits) if in_blocks else None)  # type: ignore[no-untyped-call]
    return Results(*results)


def _future_gradient(logits: Tensor) -> Tensor | None:
    """Memory for the gradient of the logits that holds the probabilities until then.

    None where no gradient is wanted, or where the gradient is not of the type or the strides that the forward pass
    computes in.
    """
    if not (logits.requires_grad and torch.is_grad_enabled() and logits.is_contiguous()):
        return None
    return torch.empty_like(logits) if logits.dtype == accumulation_dtype(logits.dtype) else None


class ReverseModeFunction(Function):
    """A function that forward-mode derivatives and `torch.vmap` refuse in words of the losses."""

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Raise: there are no forward-mode derivatives."""
        raise NotImplementedError(
            "Dense losses have no forward-mode derivatives (jvp, jacfwd). Use torch.func.grad, vjp or jacrev; the"
            " Hessian is jacrev(jacrev(loss))."
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *_: Any) -> Any:
        """Raise: the losses take batches."""
        raise NotImplementedError(
            "Dense losses take batches as they are, not in torch.vmap. reduction='none' keeps samples apart."
        )


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
        # Minus infinity times 0 would be NaN, in the gradient too.
        losses = truth * focal_term(torch.where(truth == 0, 0.0, log_probabilities), wanted.gamma)
        results.append((losses if class_factor is None else losses * class_factor[:, None]).sum(1))
    return results


class _OnePass(ReverseModeFunction):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:  # named, they would be bound by name in every call, slowly
        return tuple(cast(Any, pass_forward)(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.wanted, ctx.probabilities = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        tensors: Any = ctx.saved_tensors
        wanted = ctx.wanted
        grads = (grad_outputs[0], grad_outputs[1], grad_outputs[3])
        # Overwritten by the first backward pass; a second one, after retain_graph=True, computes them again.
        probabilities, ctx.probabilities = ctx.probabilities, None
        if torch.is_grad_enabled():  # create_graph=True
            used = [*grads[: 2 if wanted.sums else 0], *grads[3 if wanted.gamma is None else 2 :]]
            # Not torch.autograd.grad, which torch.vmap over backward passes, as in jacrev, cannot transform.
            logits, *others = tensors
            gradient_of = torch.func.vjp(lambda one: cast(Any, _formula)(one, *others, wanted), logits)[1]
            (grad,) = gradient_of(used)
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
    *sums, losses = cast(Any, pass_forward)(*tensors, wanted)
    return *(one.clone() for one in sums), losses  # an operation may not return views of one tensor


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
