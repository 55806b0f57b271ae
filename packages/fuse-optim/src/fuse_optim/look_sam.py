"""Sharpness-aware minimization that reuses a perturbed pass for several steps."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from .gradient_bucket import GradientBucket, as_float32, bucket_gradients, dense_gradients, global_norm, whole
from .loss_scaling import overflows
from .sam import SAM

ORTHOGONAL_GRADIENT = "sam_orthogonal_gradient"
"""The key of the orthogonal component in the optimizer's state of a parameter."""


class LookSAM(SAM):
    r"""SAM that reuses one perturbed pass in the steps until the next (LookSAM).

    With :math:`g` the gradient at the weights and :math:`g_s` the gradient at the perturbed weights, a step with a
    perturbed pass descends along :math:`g_s`, and keeps the component of it that is orthogonal to :math:`g`:

    .. math::
        g_v = g_s - \frac{\langle g, g_s \rangle}{\lVert g \rVert^2} \, g .

    It changes slowly from step to step. The steps without a perturbed pass descend along

    .. math::
        g + \alpha \, \frac{\lVert g \rVert}{\lVert g_v \rVert} \, g_v .

    Products and norms are over all parameters together. Source: Liu et al. 2022, "Towards Efficient and Scalable
    Sharpness-Aware Minimization", arXiv 2203.02714, algorithm 1.

    The component is kept in the optimizer's state, so checkpoints hold it. It needs memory for two more gradients.

    Args:
        params: parameters or parameter groups, as for `SAM`.
        base_optimizer: the optimizer that takes the step, as for `SAM`.
        rho: the radius of the neighborhood.
        adaptive: measure the neighborhood relative to each weight.
        interval: take the perturbed pass every `interval` steps. The paper uses 5.
        reuse_alpha: :math:`\alpha`, the length of the reused component relative to the gradient's. The paper uses 0.7
            with large batches; small batches need less.
        options: the other arguments of `SAM`, and those of the base optimizer.

    Raises:
        ValueError: as for `SAM`; or `perturbation` is `"local"`: the components of the processes would differ.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = LookSAM([weight], torch.optim.SGD, interval=2, reuse_alpha=0.3, lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (weight**4).sum()
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(3):
        ...     loss = optimizer.step(closure)
        >>> "sam_orthogonal_gradient" in optimizer.state[weight]
        True
    """

    _pickled = (*SAM._pickled, "reuse_alpha")

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        interval: int = 5,
        reuse_alpha: float = 0.7,
        **options: Any,
    ) -> None:
        is_length = isinstance(reuse_alpha, Real) and 0 <= reuse_alpha < math.inf
        self._require(is_length, "a finite reuse_alpha >= 0", repr(reuse_alpha))
        local = options.get("perturbation") == "local"
        self._require(not local, 'perturbation="global", because processes would drift apart', '"local"')
        self.reuse_alpha = reuse_alpha
        super().__init__(params, base_optimizer, rho, adaptive, interval=interval, **options)

    def _keep_gradients(self, buckets: list[GradientBucket]) -> None:
        self._clean_gradients.clear()
        for bucket in buckets:
            copies = [grad.clone() for grad in bucket.grads]
            self._clean_gradients.update(zip(bucket.params, copies, strict=True))

    def _take_base_step(self, grad_scaler: GradScaler | None) -> None:
        with torch.no_grad():
            learned = self._reuse(grad_scaler)
        super()._take_base_step(grad_scaler)
        self._clean_gradients.clear()
        if learned:  # only now, because many optimizers initialize a state only if it is empty
            for entries in self._states_of_parameters().values():
                entries.pop(ORTHOGONAL_GRADIENT, None)
            for param, component in learned.items():
                self.state[param][ORTHOGONAL_GRADIENT] = component

    def _reuse(self, grad_scaler: GradScaler | None) -> dict[Tensor, Tensor]:
        """Return the component of a perturbed pass. In other steps, add the kept component to the gradients."""
        buckets = bucket_gradients(dense_gradients(type(self).__name__, self.param_groups))
        if not self.second_pass_is_due:
            states = self._states_of_parameters()
            kept = {p: state[ORTHOGONAL_GRADIENT] for p, state in states.items() if ORTHOGONAL_GRADIENT in state}
            add_orthogonal_gradient(kept, buckets, self.reuse_alpha)
            return {}
        if grad_scaler is not None and overflows(global_norm([b.norm(b.grads) for b in buckets]), grad_scaler):
            return {}
        return orthogonal_gradient(self._clean_gradients, buckets)

    def _states_of_parameters(self) -> dict[Tensor, dict[str, Any]]:
        """Leave out what a base optimizer keeps under other keys, such as a counter of its steps."""
        return {param: state for param, state in self.state.items() if isinstance(param, Tensor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._clean_gradients: dict[Tensor, Tensor] = {}  # of the first pass, by parameter


def orthogonal_gradient(clean: dict[Tensor, Tensor], buckets: list[GradientBucket]) -> dict[Tensor, Tensor]:
    """Compute the component of the perturbed gradient that is orthogonal to the gradient at the weights.

    `clean` are the gradients at the weights, overwritten by the result to save memory. Parameters without both
    gradients are left out. The component is zero if the gradients are parallel.
    """
    both = _restrict(buckets, clean)
    if not both:
        return {}
    norm = global_norm([bucket.norm(tensors) for bucket, tensors in both])
    products = [
        _dot(tensor, grad) for bucket, tensors in both for tensor, grad in zip(tensors, bucket.grads, strict=True)
    ]
    product = torch.stack([product.to(norm) for product in products]).sum()
    share = torch.where(norm > 0, product / norm.square(), 0.0)
    for bucket, tensors in both:
        _subtract_from_gradients_(bucket, tensors, share.to(tensors[0].device))
    # If the gradients are parallel, only rounding errors are left. They must not be scaled up to a gradient's length.
    length = global_norm([bucket.norm(tensors) for bucket, tensors in both])
    rounding = 4 * max(torch.finfo(bucket.grads[0].dtype).eps for bucket, _ in both)
    significant = length > rounding * global_norm([bucket.norm(bucket.grads) for bucket, _ in both])
    orthogonal: dict[Tensor, Tensor] = {}
    for bucket, tensors in both:
        for tensor in tensors:
            tensor.mul_(significant.to(tensor.device))
        orthogonal.update(zip(bucket.params, tensors, strict=True))
    return orthogonal


def _subtract_from_gradients_(bucket: GradientBucket, tensors: list[Tensor], scale: Tensor) -> None:
    """Replace `tensors` by the bucket's gradients minus `scale` times `tensors`, in place."""
    if bucket.foreach and as_float32(tensors[0]) is tensors[0]:
        torch._foreach_mul_(tensors, -scale)
        torch._foreach_add_(tensors, bucket.grads)
    else:
        for tensor, grad in zip(tensors, bucket.grads, strict=True):
            tensor.copy_(as_float32(grad) - as_float32(tensor) * scale)


def add_orthogonal_gradient(kept: dict[Tensor, Tensor], buckets: list[GradientBucket], alpha: float) -> None:
    """Add earlier components to the gradients, in place, with `alpha` times the gradient's length."""
    both = _restrict(buckets, kept)
    if not both:
        return
    length = global_norm([bucket.norm(components) for bucket, components in both])
    gradient_length = global_norm([bucket.norm(bucket.grads) for bucket in buckets])
    scale = torch.where(length > 0, alpha * gradient_length.to(length) / length, 0.0)
    for bucket, components in both:
        bucket.add_(bucket.grads, components, scale)


def _restrict(
    buckets: list[GradientBucket], tensors: dict[Tensor, Tensor]
) -> list[tuple[GradientBucket, list[Tensor]]]:
    """Restrict each bucket to the parameters that have a tensor; return it with those tensors."""
    restricted = []
    for bucket in buckets:
        pairs = [(p, grad) for p, grad in zip(bucket.params, bucket.grads, strict=True) if p in tensors]
        if pairs:
            part = replace(bucket, params=[p for p, _ in pairs], grads=[grad for _, grad in pairs])
            restricted.append((part, [tensors[p] for p in part.params]))
    return restricted


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Compute the real inner product of two tensors, in float32 or better."""
    return whole((as_float32(first).conj() * as_float32(second)).real.sum())
