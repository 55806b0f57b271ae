"""Skip the steps in which loss scaling made a gradient infinite."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


def overflows(norm: Tensor, grad_scaler: GradScaler) -> bool:
    """Whether loss scaling made a gradient infinite. It waits for the device, as the scaler's own step does.

    Args:
        norm: the norm of all gradients.
        grad_scaler: the scaler in use.
    """
    return grad_scaler.is_enabled() and not bool(torch.isfinite(norm))


def overflows_anywhere(norm: Tensor, grad_scaler: GradScaler, model: Any) -> bool:
    """Whether a gradient is infinite in any process. All must skip the second pass then: it needs all of them."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not grad_scaler.is_enabled() or not distributed:
        return overflows(norm, grad_scaler)
    finite = torch.isfinite(norm).to(torch.int32)
    group = getattr(model, "process_group", None)
    torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN, group=group)
    return not bool(finite)


def skip_step(optimizer: Optimizer, grad_scaler: GradScaler) -> None:
    """Tell the scaler that a gradient was infinite, also where only another pass or process had it.

    Args:
        optimizer: the optimizer whose step is skipped. One of its gradients is overwritten.
        grad_scaler: the scaler.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads[0].fill_(math.inf)
    with contextlib.suppress(RuntimeError):  # the caller has already unscaled, in order to clip: the scaler knows
        grad_scaler.unscale_(optimizer)
