r"""LookSAM's component of the perturbed gradient, kept from one perturbed pass for the steps until the next.

With :math:`g` the gradient at the weights and :math:`g_s` that at the perturbed weights, the component of :math:`g_s`
orthogonal to :math:`g` is

.. math::
    g_v = g_s - \frac{\langle g, g_s \rangle}{\lVert g \rVert^2} \, g ,

and it changes slowly from step to step. The steps without a perturbed pass descend along

.. math::
    g + \alpha \, \frac{\lVert g \rVert}{\lVert g_v \rVert} \, g_v .

Products and norms are over all parameters together. Source: Liu et al. 2022, "Towards Efficient and Scalable
Sharpness-Aware Minimization", arXiv 2203.02714, algorithm 1.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .gradient_bucket import GradientBucket, as_float32, global_norm, whole

ORTHOGONAL_GRADIENT = "sam_orthogonal_gradient"
"""The key of the component in the optimizer's state of a parameter."""


def orthogonal_gradient(clean: dict[Tensor, Tensor], buckets: list[GradientBucket]) -> dict[Tensor, Tensor]:
    """The component of the perturbed gradient that is orthogonal to the gradient at the weights.

    Args:
        clean: the gradients at the weights, by parameter; overwritten by the result, to save memory.
        buckets: the parameters with their gradients at the perturbed weights.

    Returns:
        The component, for each parameter that has both gradients; zero if the gradients are parallel.
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
        bucket.subtract_from_gradients_(tensors, share)
    # Of parallel gradients nothing but rounding is left, which must not be stretched to the length of a gradient.
    length = global_norm([bucket.norm(tensors) for bucket, tensors in both])
    rounding = 4 * max(torch.finfo(bucket.grads[0].dtype).eps for bucket, _ in both)
    significant = length > rounding * global_norm([bucket.norm(bucket.grads) for bucket, _ in both])
    orthogonal: dict[Tensor, Tensor] = {}
    for bucket, tensors in both:
        for tensor in tensors:
            tensor.mul_(significant.to(tensor.device))
        orthogonal.update(zip(bucket.params, tensors, strict=True))
    return orthogonal


def keep_orthogonal_gradient(orthogonal: dict[Tensor, Tensor], state: dict[Tensor, Any]) -> None:
    """Have an optimizer's state hold the component, instead of that of an earlier step."""
    for entries in state.values():
        entries.pop(ORTHOGONAL_GRADIENT, None)
    for param, component in orthogonal.items():
        state[param][ORTHOGONAL_GRADIENT] = component


def add_orthogonal_gradient(state: dict[Tensor, Any], buckets: list[GradientBucket], alpha: float) -> None:
    """Add the component of an earlier step to the gradients, in place, as long as `alpha` times the gradient.

    Args:
        state: the optimizer's state, which holds the component; parameters without one keep their gradient.
        buckets: the parameters with their gradients at the weights.
        alpha: the share of the gradient's length.
    """
    kept = {param: entries[ORTHOGONAL_GRADIENT] for param, entries in state.items() if ORTHOGONAL_GRADIENT in entries}
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
    """The part of each bucket whose parameters have a tensor, and those tensors."""
    restricted = []
    for bucket in buckets:
        pairs = [(p, grad) for p, grad in zip(bucket.params, bucket.grads, strict=True) if p in tensors]
        if pairs:
            part = replace(bucket, params=[p for p, _ in pairs], grads=[grad for _, grad in pairs])
            restricted.append((part, [tensors[p] for p in part.params]))
    return restricted


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """The real inner product of two tensors, summed in float32 at least."""
    return whole((as_float32(first).conj() * as_float32(second)).real.sum())
