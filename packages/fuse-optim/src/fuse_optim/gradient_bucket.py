"""Parameters and their gradients, grouped so that one kernel can work on many of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass
class GradientBucket:
    """Parameters of one group, device and dtype that have gradients, with the group's settings.

    Arithmetic is done with `torch._foreach_*` if `foreach` is true, else tensor by tensor. Half precision is computed
    in float32, and rounded once when the result is written.
    """

    group: dict[str, Any]
    foreach: bool
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)  # or other tensors of the parameters' shapes

    def norm(self, tensors: list[Tensor]) -> Tensor:
        """Compute the 2-norm of all tensors together, a 0-d tensor, in float32 or better: squares overflow easily."""
        dtype = at_least_float32(tensors[0].dtype)
        if self.foreach:
            norms = list(torch._foreach_norm(tensors, dtype=dtype))
        else:
            norms = [whole(torch.linalg.vector_norm(tensor, dtype=dtype)) for tensor in tensors]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def scaled_gradients(self) -> list[Tensor]:
        r"""Compute ASAM's :math:`T_w \, g`, up to the sign of each element. Not adaptive: the gradients themselves."""
        return self._product(self._weight_scales(), self.grads) if self.group["sam_adaptive"] else self.grads

    def ascent_direction(self) -> list[Tensor]:
        r"""Compute ASAM's :math:`T_w^2 \, g`. Not adaptive: the gradients themselves."""
        if not self.group["sam_adaptive"]:
            return self.grads
        scales = self._weight_scales()
        direction = self._product(scales, self.grads)
        if self.foreach:
            torch._foreach_mul_(direction, scales)
            return direction
        return self._product(scales, direction)

    def _weight_scales(self) -> list[Tensor]:
        r"""Compute the diagonal of :math:`T_w`. Without :math:`\eta` its sign may differ; the square removes it."""
        scales, eta = [as_float32(param) for param in self.params], self.group["sam_adaptive_eta"]
        if eta == 0 and not scales[0].is_complex():
            return scales
        if not self.foreach:
            return [scale.abs() + eta for scale in scales]
        scales = list(torch._foreach_abs(scales))
        torch._foreach_add_(scales, eta)
        return scales

    def _product(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        if self.foreach:
            return list(torch._foreach_mul(first, second))
        return [a * b for a, b in zip(first, second, strict=True)]

    def add_(self, targets: list[Tensor], tensors: list[Tensor], scale: Tensor) -> None:
        """Add `scale` times `tensors` to `targets`, in place."""
        scale = scale.to(targets[0].device)
        if not self.foreach:
            targets, tensors = local_shards(targets), local_shards(tensors)
        if as_float32(targets[0]) is not targets[0]:
            for target, tensor in zip(targets, tensors, strict=True):
                target.add_(as_float32(tensor) * scale)  # the scale itself may be too large for half precision
        elif not self.foreach:
            for target, tensor in zip(targets, tensors, strict=True):
                target.addcmul_(tensor, scale)
        elif targets[0].is_cpu:
            # Without a temporary, which would cost more than all else here. On a GPU it would be one kernel a tensor.
            torch._foreach_addcmul_(targets, tensors, [scale] * len(targets))
        else:
            torch._foreach_add_(targets, torch._foreach_mul(tensors, scale))


MAX_ELEMENTS = 2**22
"""The largest bucket of several tensors. The temporaries of a bucket are freed before the next one is computed."""


GroupParamGradient = tuple[dict[str, Any], Tensor, Tensor]


def dense_gradients(owner: str, param_groups: Iterable[dict[str, Any]]) -> list[GroupParamGradient]:
    """Find all gradients: the group, the parameter, and its gradient. A sparse one is a RuntimeError."""
    found = []
    for group in param_groups:
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"{owner} needs dense gradients, got one of layout {grad.layout} for a parameter of shape "
                    f"{tuple(param.shape)}. Build embeddings with sparse=False, or give them to another optimizer."
                )
            found.append((group, param, grad))
    return found


def bucket_gradients(gradients: Iterable[GroupParamGradient]) -> list[GradientBucket]:
    """Put parameters and their gradients, as `dense_gradients` finds them, into buckets.

    A bucket's tensors are computed one by one if they are complex or of a subclass such as `DTensor`, or if their group
    has `foreach=False`, an option of PyTorch's own optimizers.
    """
    buckets: list[GradientBucket] = []
    open_buckets: dict[Any, tuple[GradientBucket, int]] = {}
    for group, param, grad in gradients:
        key = (id(group), param.device, param.dtype, grad.dtype, type(param), type(grad))
        bucket, elements = open_buckets.get(key, (None, 0))
        elements += param.numel()
        if bucket is None or elements > MAX_ELEMENTS:
            plain = type(grad) is Tensor and type(param) in (Tensor, Parameter) and not grad.is_complex()
            bucket = GradientBucket(group, foreach=plain and group.get("foreach") is not False)
            elements = param.numel()
            buckets.append(bucket)
        bucket.params.append(param)
        bucket.grads.append(grad)
        open_buckets[key] = bucket, elements
    return buckets


def copy_tensors_(targets: list[Tensor], sources: list[Tensor], foreach: bool) -> None:
    """Copy `sources` to `targets`."""
    if foreach:
        torch._foreach_copy_(targets, sources)
    else:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def global_norm(norms: list[Tensor]) -> Tensor:
    """Combine 2-norms of parts to the 2-norm of the whole, also from several devices and dtypes."""
    dtype = max({norm.dtype for norm in norms}, key=lambda dtype: dtype.itemsize)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, dtype) for norm in norms]))
    return norm


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in."""
    return torch.promote_types(dtype, torch.float32)


def as_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return any other tensor itself."""
    return tensor.to(at_least_float32(tensor.dtype))


def local_shards(tensors: list[Tensor]) -> list[Tensor]:
    """Return this process's part of tensors that are sharded over processes; other tensors themselves."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Complete a norm or a sum of a tensor that is sharded over processes, so that it is over all shards."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor
