"""Which derivatives the fused losses have, and the gradient of a formula as a part of the graph."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


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


def differentiable_gradient(
    formula: Callable[[Tensor], Tensor | Sequence[Tensor]], logits: Tensor, grad_outputs: Tensor | Sequence[Tensor]
) -> Tensor:
    """The gradient by the logits of a formula in torch's operations, as a part of the graph (`create_graph=True`)."""
    # Not torch.autograd.grad, which torch.vmap over backward passes, as in jacrev, cannot transform.
    gradient_of = torch.func.vjp(formula, logits)[1]
    (grad,) = gradient_of(grad_outputs)
    return cast(Tensor, grad)
