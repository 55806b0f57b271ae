"""Parameters and their gradients, in lists that one kernel can work on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass
class GradientBucket:
    """Parameters of one group, device and dtype that have gradients, with the group's settings.

    The arithmetic on weights and gradients is done here: with `torch._foreach_*` where `foreach` is true, else tensor
    by tensor. Half precision is computed in float32 and rounded once, when it is written.

    Attributes:
        rho: the radius of the perturbation.
        adaptive: whether it is measured in units of the weights.
        adaptive_eta: what is added to their absolute value.
        foreach: whether lists of tensors are worked on at once.
        params: the parameters.
        grads: their gradients.
    """

    rho: float
    adaptive: bool
    adaptive_eta: float
    foreach: bool
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)

    def norm(self, tensors: list[Tensor]) -> Tensor:
        """The 2-norm of all tensors together, as a tensor of no axes, in float32 at least: squares overflow easily."""
        dtype = at_least_float32(tensors[0].dtype)
        if self.foreach:
            norms = list(torch._foreach_norm(tensors, dtype=dtype))
        else:
            norms = [whole(torch.linalg.vector_norm(tensor, dtype=dtype)) for tensor in tensors]
        return global_norm(norms)

    def times_weights(self, tensors: list[Tensor]) -> list[Tensor]:
        r"""ASAM's :math:`T_w` times tensors, :math:`T_w = \mathrm{diag}(|w| + \eta)`; the tensors if not adaptive."""
        if not self.adaptive:
            return tensors
        params = self.params
        if params[0].dtype != (dtype := at_least_float32(params[0].dtype)):
            params = [param.to(dtype) for param in params]
        if not self.foreach:
            return [(param.abs() + self.adaptive_eta) * t for param, t in zip(params, tensors, strict=True)]
        products = list(torch._foreach_abs(params))
        if self.adaptive_eta:
            torch._foreach_add_(products, self.adaptive_eta)
        torch._foreach_mul_(products, tensors)
        return products

    def add_(self, targets: list[Tensor], tensors: list[Tensor], scale: Tensor) -> None:
        """Add `scale` times `tensors` to `targets`, in place."""
        scale = scale.to(targets[0].device)
        targets, tensors = local_shards(targets), local_shards(tensors)
        if targets[0].dtype != (dtype := at_least_float32(targets[0].dtype)):
            for target, tensor in zip(targets, tensors, strict=True):
                target.add_(tensor.to(dtype) * scale)  # the scale itself may be too large for half precision
        elif not self.foreach:
            for target, tensor in zip(targets, tensors, strict=True):
                target.addcmul_(tensor, scale)
        elif targets[0].is_cpu:
            # No temporary, which would cost more than all the rest here. On a GPU this would be a kernel a tensor.
            torch._foreach_addcmul_(targets, tensors, [scale] * len(targets))
        else:
            torch._foreach_add_(targets, torch._foreach_mul(tensors, scale))

    def copy_(self, targets: list[Tensor], sources: list[Tensor]) -> None:
        """Copy `sources` to `targets`."""
        if self.foreach:
            torch._foreach_copy_(targets, sources)
        else:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)


def bucket_gradients(param_groups: Iterable[dict[str, Any]]) -> list[GradientBucket]:
    """The parameters that have gradients, in buckets.

    The per-tensor path is taken for complex numbers, for subclasses of tensors such as `DTensor`, and in groups with
    `foreach=False`, the switch of PyTorch's own optimizers.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    buckets: dict[Any, GradientBucket] = {}
    for index, group in enumerate(param_groups):
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"SAM needs dense gradients, got one of layout {grad.layout} for a parameter of shape "
                    f"{tuple(param.shape)}. Build embeddings with sparse=False, or leave them to another optimizer."
                )
            plain = type(grad) is Tensor and type(param) in (Tensor, Parameter) and not grad.is_complex()
            foreach = plain and group.get("foreach") is not False
            key = (index, param.device, param.dtype, grad.dtype, foreach)
            if key not in buckets:
                buckets[key] = GradientBucket(group["rho"], group["adaptive"], group["adaptive_eta"], foreach)
            buckets[key].params.append(param)
            buckets[key].grads.append(grad)
    return list(buckets.values())


def global_norm(norms: list[Tensor]) -> Tensor:
    """The 2-norm of what norms were taken of, also on several devices and in several dtypes."""
    dtype = max({norm.dtype for norm in norms}, key=lambda dtype: dtype.itemsize)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, dtype) for norm in norms]))
    return norm


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in."""
    return torch.promote_types(dtype, torch.float32)


def local_shards(tensors: list[Tensor]) -> list[Tensor]:
    """What a process holds of tensors sharded over processes; other tensors as they are."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """A norm or sum over all shards, where what it was taken of is sharded over processes."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor
