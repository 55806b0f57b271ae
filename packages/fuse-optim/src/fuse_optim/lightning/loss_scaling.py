"""Loss scaling for an optimizer step of several passes."""

import torch
from torch import Tensor
from torch.optim import Optimizer


class LossScaling:
    """Scales losses and unscales gradients, pass by pass, and adjusts the scale once a step.

    Args:
        scaler: the gradient scaler; None leaves losses and gradients as they are.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> scaling = LossScaling(torch.amp.GradScaler("cpu", init_scale=8.0))
        >>> scaling.scale(weight.sum()).backward()
        >>> weight.grad, scaling.unscale_gradients(optimizer), weight.grad
        (tensor([1., 1.]), True, tensor([1., 1.]))
        >>> scaling.end_step()
    """

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler = scaler
        self._passes: list[_OnePass] = []

    @property
    def active(self) -> bool:
        """Whether there is a scaler."""
        return self._scaler is not None

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to backpropagate."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale_gradients(self, optimizer: Optimizer) -> bool:
        """Unscale the gradients of one pass; returns whether they are finite."""
        if self._scaler is None:
            return True
        self._passes.append(_OnePass(optimizer))
        self._scaler.step(self._passes[-1])  # type: ignore[arg-type]
        return self._passes[-1].finite

    def end_step(self) -> None:
        """Lower the scale if the gradients of any pass overflowed, else count towards raising it."""
        if self._scaler is not None and self._passes:
            self._scaler.update()
        self._passes.clear()


class _OnePass:
    """An optimizer to the scaler, which unscales once an optimizer, and steps it when its gradients are finite."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups = optimizer.param_groups
        self.finite = False

    def step(self) -> None:
        self.finite = True
