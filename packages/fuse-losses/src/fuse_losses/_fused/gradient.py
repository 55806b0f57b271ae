"""The gradient of a formula as a part of the graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def differentiable_gradient(
    formula: Callable[[Tensor], Tensor | Sequence[Tensor]], logits: Tensor, grad_outputs: Tensor | Sequence[Tensor]
) -> Tensor:
    """The gradient by the logits of a formula in torch's operations, as a part of the graph (`create_graph=True`)."""
    logits = logits.view_as(logits)
    if not logits.requires_grad:  # the function that torch.func.vjp returns is called when its transform has ended
        logits = logits.detach().requires_grad_()
    (grad,) = torch.autograd.grad(formula(logits), logits, grad_outputs, create_graph=True)
    return grad
