"""Skip the steps in which loss scaling made a gradient infinite."""

from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


def overflows(norm: Tensor, grad_scaler: GradScaler) -> bool:
    """Whether loss scaling made the gradients' norm infinite. Waits for the device, as the scaler's own step does."""
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


def take_step(owner: Optimizer, base_optimizer: Optimizer, grad_scaler: GradScaler | None) -> bool:
    """Let the base optimizer, or the scaler with it, take the step; return whether it did.

    Raises:
        RuntimeError: the scaler has unscaled the gradients for `owner`, so it would unscale them again.
    """
    if grad_scaler is None or not grad_scaler.is_enabled():
        base_optimizer.step()
        return True
    states = grad_scaler._per_optimizer_states  # by id
    if id(owner) in states:
        raise RuntimeError(
            f"scaler.unscale_ was called with the {type(owner).__name__}, so its base optimizer's step would unscale "
            "the gradients again. Call scaler.unscale_(optimizer.base_optimizer) instead, after the last backward."
        )
    grad_scaler.step(base_optimizer)
    return not any(bool(found) for found in states[id(base_optimizer)]["found_inf_per_device"].values())


def skip_step(optimizer: Optimizer, grad_scaler: GradScaler) -> None:
    """Tell the scaler that a gradient was infinite, also where only another pass or process had it; unscale."""
    state = grad_scaler._per_optimizer_states[id(optimizer)]
    if not state["found_inf_per_device"]:  # else the caller has unscaled already, in order to clip
        grad_scaler.unscale_(optimizer)
    for found in state["found_inf_per_device"].values():
        found.fill_(1.0)
