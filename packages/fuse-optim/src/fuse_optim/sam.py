"""Sharpness-aware minimization."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SAM(Optimizer):
    r"""Sharpness-aware minimization: descend along the gradient taken at the worst point nearby.

    A step takes the gradient :math:`g = \nabla L(w)` at the weights, climbs to

    .. math::
        \hat w = w + \rho \, \frac{g}{\lVert g \rVert_2},

    takes the gradient there, restores :math:`w` and lets the base optimizer descend along it. The norm is over all
    parameters together. Source: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", arXiv 2010.01412, equations 2 and 3.

    The weights are restored from a saved copy, so bit by bit, and also when the closure raises. The closure is called
    twice a step, so normalization layers update their running statistics twice, the second time at the perturbed
    weights. The closure must clear the gradients: accumulating them over several batches is not supported.

    Args:
        params: parameters or parameter groups; a group may set its own `rho`.
        base_optimizer: the optimizer that takes the step, as a class or a function of `(params, **base_kwargs)`.
        rho: the radius of the neighbourhood, in units of the weights; 0 makes it the base optimizer.
        base_kwargs: arguments of the base optimizer.

    Raises:
        ValueError: `rho` is negative.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
        tensor(5., grad_fn=<SumBackward0>)
        >>> weight.data
        tensor([ 0.7955, -1.5911])
    """

    base_optimizer: Optimizer

    calls_closure_repeatedly = True
    """For training loops: a step evaluates its batch more than once."""

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer],
        rho: float = 0.05,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(params, {"rho": rho})
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        # Shared, so that learning rate schedulers see the base optimizer's settings and steps its changes to them.
        self._share_with_base()
        self.defaults = {**self.base_optimizer.defaults, "rho": rho}

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        for group in self.param_groups:
            group.setdefault("rho", self.defaults["rho"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base_optimizer": self.base_optimizer}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` on it and returns it. It is called
                twice: at the weights and at the perturbed weights.

        Returns:
            The loss at the weights, before the step.

        Raises:
            ValueError: no closure.
        """
        if closure is None:
            raise ValueError(
                "SAM.step needs a closure, because it evaluates the loss twice. Pass a function that calls "
                "zero_grad, computes the loss, calls backward and returns the loss: optimizer.step(closure)."
            )
        with torch.enable_grad():
            loss = closure()
        perturbed, weights = self._climb()
        try:
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(perturbed, weights)
        self.base_optimizer.step()
        return loss

    @torch.no_grad()
    def _climb(self) -> tuple[list[Tensor], list[Tensor]]:
        """Move to the perturbed weights; returns the parameters that moved and copies of their weights."""
        moving = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moving:
            raise RuntimeError(
                "SAM.step found no gradient after the closure. The closure must call backward on the loss it returns."
            )
        params = [p for p, _ in moving]
        weights = [p.clone() for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        # In float32 at least: the norm of half-precision gradients overflows easily.
        dtype = max((torch.promote_types(grad.dtype, torch.float32) for grad in grads), key=lambda d: d.itemsize)
        norms = [norm.to(grads[0].device) for norm in torch._foreach_norm(grads, dtype=dtype)]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for (p, rho), grad in zip(moving, grads, strict=True):
            # A gradient of exactly zero gives no direction: stay, rather than divide by zero.
            scale = torch.where(norm > 0, rho / norm, 0.0).to(p.device)
            p.add_((grad.to(dtype) * scale).to(p.dtype))  # rho over a small norm overflows half precision
        return params, weights

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, to the base optimizer too."""
        rho = param_group.setdefault("rho", self.defaults["rho"])
        if not rho >= 0:
            raise ValueError(f"SAM needs rho >= 0, got {rho}.")
        if hasattr(self, "base_optimizer"):
            self.base_optimizer.add_param_group(param_group)
        else:  # called by Optimizer.__init__
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state; SAM keeps none of its own between steps."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of the base optimizer's class without SAM."""
        self.base_optimizer.load_state_dict(state_dict)
        self._share_with_base()
