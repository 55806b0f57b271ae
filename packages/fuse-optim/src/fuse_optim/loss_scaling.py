"""Steps that loss scaling has to skip."""

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

if TYPE_CHECKING:  # there are builds of torch without it
    from torch.distributed import ProcessGroup


def overflows(norm: Tensor, grad_scaler: GradScaler | None) -> bool:
    """Whether loss scaling made a gradient infinite. Without a scaler nothing is read back from the device.

    Args:
        norm: the norm of all gradients.
        grad_scaler: the scaler in use, if any.
    """
    return grad_scaler is not None and grad_scaler.is_enabled() and not bool(torch.isfinite(norm))


def overflows_anywhere(norm: Tensor, grad_scaler: GradScaler | None, group: "ProcessGroup | None") -> bool:
    """`overflows` in any process, so that all of them skip the second pass, in which they wait for each other."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if grad_scaler is None or not grad_scaler.is_enabled() or not distributed:
        return overflows(norm, grad_scaler)
    finite = torch.isfinite(norm).to(torch.int32)
    torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN, group=group)
    return not bool(finite)


def skip_step(optimizer: Optimizer, grad_scaler: GradScaler) -> None:
    """Have the scaler count an infinite gradient, also where only another pass or process had one.

    Args:
        optimizer: the optimizer whose step is skipped; a gradient of it is overwritten.
        grad_scaler: the scaler.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads[0].fill_(math.inf)
    with contextlib.suppress(RuntimeError):  # unscaled by the caller already, in order to clip: counted then
        grad_scaler.unscale_(optimizer)
