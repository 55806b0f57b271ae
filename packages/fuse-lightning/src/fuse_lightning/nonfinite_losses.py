"""Noticing a loss that is no finite number, without waiting for the device."""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fuse_core import LOSSES, SAMPLE_ID, TOTAL_LOSS

NonFinitePolicy = Literal["raise", "skip", "ignore"]
SLOTS = 8


class NonFiniteLossError(ValueError):
    """The total loss of a training step is NaN or infinite; the message names the loss, the step and the samples."""


@dataclass(frozen=True)
class _Pending:
    """A step whose losses are on their way to the host."""

    slot: int
    names: tuple[str, ...]
    step: int
    sample_ids: Any
    arrived: torch.cuda.Event | None


class NonFiniteLosses:
    """Copies each step's losses to the host and looks at them once they are there, which takes no waiting.

    On a GPU the copy runs behind the step's own work, and a step is looked at during one of the next few. On the CPU
    it is looked at at once. Where steps are outstanding, `check(wait=True)` waits for them.

    To skip, nothing needs to be known on the host. Each parameter's gradient of a batch becomes zero on the device if
    the batch's total loss is not finite, before it is added to other batches' and averaged over processes. All
    processes then take the same step, with what the other batches gave. (A product of the loss and zero would not do:
    zero times a gradient that is not finite is not finite.)

    Args:
        policy: `"raise"` stops with an error, `"skip"` warns and leaves the batch out, `"ignore"` does nothing.
    """

    def __init__(self, policy: NonFinitePolicy) -> None:
        self.policy = policy
        self._hooks: list[RemovableHandle] = []
        self._is_finite: Tensor | None = None
        self._pending: deque[_Pending] = deque()
        self._host: Tensor | None = None
        self._values: Any = None
        self._next_slot = 0

    def check_strategy(self, strategy: Strategy) -> None:
        """Raise ValueError if batches cannot be skipped because processes share out the parameters."""
        if self.policy == "skip" and not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"on_nonfinite='skip' works on a single device and with DDP, not with {type(strategy).__name__}, where "
                f"no process has the whole gradient of its batch. Use 'raise' or 'ignore'."
            )

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin an epoch: drop what an interrupted one left, and guard the gradients of what is trained now."""
        self.stop()
        if self.policy == "skip":
            trained = [one for one in parameters if one.requires_grad]
            self._hooks = [one.register_hook(self._zero_unless_finite) for one in trained]  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Leave the gradients alone again."""
        self._pending.clear()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _zero_unless_finite(self, gradient: Tensor) -> Tensor:
        return gradient if self._is_finite is None else torch.where(self._is_finite, gradient, 0)

    def watch(self, batch_dict: Mapping[str, Any], step: int) -> Tensor | None:
        """Look at the losses of one step, those that `step_losses` wrote to `losses.*`, once they are on the host.

        Returns:
            Whether the batch counts, a boolean scalar on the device; None if it does in any case.

        Raises:
            NonFiniteLossError: see `check`.
        """
        if self.policy == "ignore":
            return None
        self._copy_to_host(batch_dict, step)
        self.check()
        if self.policy == "skip":
            self._is_finite = torch.isfinite(batch_dict[TOTAL_LOSS])
        return self._is_finite

    def _copy_to_host(self, batch_dict: Mapping[str, Any], step: int) -> None:
        losses = dict(batch_dict[LOSSES])
        device = batch_dict[TOTAL_LOSS].device
        asynchronous = device.type == "cuda"
        stacked = torch.stack([value.to(device) for value in losses.values()])
        host = self._buffer(len(losses), asynchronous)
        if len(self._pending) == SLOTS:
            self._examine(self._pending.popleft(), wait=True)
        host[self._next_slot].copy_(stacked, non_blocking=asynchronous)
        arrived = None
        if asynchronous:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(device))
        sample_ids = batch_dict.get(SAMPLE_ID)
        self._pending.append(_Pending(self._next_slot, tuple(losses), step, sample_ids, arrived))
        self._next_slot = (self._next_slot + 1) % SLOTS

    def check(self, wait: bool = False) -> None:
        """Look at the steps that have arrived, or at all.

        Raises:
            NonFiniteLossError: the total loss of one is not finite, and the policy is `"raise"`.
        """
        while self._pending:
            if not wait and not _has_arrived(self._pending[0]):
                return
            self._examine(self._pending.popleft(), wait)

    def _buffer(self, width: int, pinned: bool) -> Tensor:
        if self._host is None or self._host.shape[1] != width:
            self.check(wait=True)  # nothing is on its way to the old one then
            self._host = torch.empty(SLOTS, width, dtype=torch.float64, pin_memory=pinned)
            self._values = self._host.numpy()  # the same memory: reading it is no call to the device
        return self._host

    def _examine(self, pending: _Pending, wait: bool) -> None:
        if wait and pending.arrived is not None:
            pending.arrived.synchronize()
        values = dict(zip(pending.names, map(float, self._values[pending.slot]), strict=True))
        total = values.pop(TOTAL_LOSS.removeprefix(f"{LOSSES}."))
        if math.isfinite(total):
            return
        named = {name: value for name, value in values.items() if not math.isfinite(value)} or {"their sum": total}
        what = ", ".join(f"{name!r} is {value}" for name, value in named.items())
        message = f"The training loss of step {pending.step} is not finite: {what}. {_samples(pending.sample_ids)}"
        if self.policy == "raise":
            raise NonFiniteLossError(
                f"{message} Look at these samples, the learning rate and the precision. on_nonfinite='skip' leaves out "
                f"such batches, 'ignore' goes on."
            )
        warnings.warn(f"{message} The batch adds nothing to the gradient.", stacklevel=2)


def _has_arrived(pending: _Pending) -> bool:
    return pending.arrived is None or bool(pending.arrived.query())  # type: ignore[no-untyped-call]


def _samples(sample_ids: Any) -> str:
    if sample_ids is None:
        return "The batch holds no 'data.sample_id' to name its samples by."
    ids = list(sample_ids)
    shown = ", ".join(map(repr, ids[:32])) + (f" and {len(ids) - 32} more" if len(ids) > 32 else "")
    return f"Its samples: {shown}."
