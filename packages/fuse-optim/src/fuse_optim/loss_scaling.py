"""Notice and skip the steps in which loss scaling made a gradient infinite."""

from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


def overflows(norm: Tensor, grad_scaler: GradScaler, ddp_module: Any = None) -> bool:
    """Whether loss scaling made the gradients' norm infinite. Waits for the device, as the scaler's own step does.

    With a `ddp_module`, whether it is infinite in any process: all must skip the second pass, which needs all of them.
    """
    if not grad_scaler.is_enabled():
        return False
    finite = torch.isfinite(norm).to(torch.int32)
    if ddp_module is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        group = getattr(ddp_module, "process_group", None)
        torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN, group=group)
    return not bool(finite)


def skip_step(optimizer: Optimizer, grad_scaler: GradScaler) -> None:
    """Tell the scaler that a gradient was infinite, also where only another pass or process had it; unscale."""
    state = grad_scaler._per_optimizer_states[id(optimizer)]
    if not state["found_inf_per_device"]:  # else the caller has unscaled already, in order to clip
        grad_scaler.unscale_(optimizer)
    for found in state["found_inf_per_device"].values():
        found.fill_(1.0)
