"""Detects losses that are NaN or infinite, without blocking on the device."""

import math
import warnings
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..losses.epoch_losses import TOTAL, BatchLosses

NonFinitePolicy = Literal["raise", "skip", "ignore"]
SLOTS = 8


class NonFiniteLossError(ValueError):
    """The total loss of a training step is NaN or infinite; the message names the loss, the step and the samples.

    Example:
        >>> def train(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        ...     try:
        ...         trainer.fit(module)
        ...     except NonFiniteLossError as error:
        ...         print(f"Lower the learning rate: {error}")
    """


class _Step(NamedTuple):
    """A step whose losses are being copied to the host; `arrived` is None if they are there."""

    values: Any  # a NumPy view of host memory: reading it does not call the device
    losses: BatchLosses
    number: int
    sample_ids: Any
    arrived: torch.cuda.Event | None


class NonFiniteLosses:
    """Copies each step's losses to the host and checks them once they have arrived, without blocking.

    On a GPU the copy follows the step's own work, and the step is checked during one of the next steps. On the CPU a
    step is checked at once. `check(wait=True)` waits for the steps that have not arrived.

    Skipping a batch happens on the device. If the batch's total loss is not finite, each parameter's gradient becomes
    zero before it is added to the gradients of other batches and averaged over processes. So all processes take the
    same step with the other batches' gradients. (Multiplying the loss by zero would not work: zero times a gradient
    that is not finite is not finite.) Buffers, such as the running means of batch normalization, get back the values
    from before the batch.

    Args:
        policy: `"raise"` stops with an error, `"skip"` warns and leaves the batch out, `"ignore"` does nothing.
    """

    def __init__(self, policy: NonFinitePolicy) -> None:
        self.policy = policy
        self._hooks: list[RemovableHandle] = []
        self._is_finite: Tensor | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []  # and their values before the batch
        self._pending: deque[_Step] = deque()
        self._host: Tensor | None = None
        self._values: Any = None
        self._next_slot = 0
        self._told: set[str] = set()  # losses that were reported to count nothing

    def __deepcopy__(self, memo: dict[int, Any]) -> "NonFiniteLosses":
        # A copy of the module watches its own losses. OptimizerClosureCallback copies a module's attributes alone, for
        # each further pass of a batch: the hooks on the parameters stay with this object.
        of_copy = any(isinstance(one, pl.LightningModule) and id(one) != key for key, one in memo.items())
        return NonFiniteLosses(self.policy) if of_copy else self

    def check_strategy(self, strategy: Strategy) -> None:
        """Raise ValueError if batches cannot be skipped because parameters are sharded over processes."""
        if self.policy == "skip" and not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"on_nonfinite='skip' works on a single device and with DDP, not with {type(strategy).__name__}, where "
                f"no process has the whole gradient of its batch. Use 'raise' or 'ignore'."
            )

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin an epoch: forget the steps of an interrupted one, and guard the gradients of trained parameters."""
        self.stop()
        if self.policy == "skip":
            trained = [one for one in parameters if one.requires_grad]
            self._hooks = [one.register_hook(self._zero_unless_finite) for one in trained]  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Stop guarding the gradients, and forget the run."""
        self._pending.clear()
        # A copy of the module would separate the memory from its view; the next run may use another device.
        self._host = self._values = self._is_finite = None
        self._buffers = []
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def before_forward(self, buffers: Iterable[Tensor]) -> None:
        """Keep copies of the model's buffers, in case the batch is skipped."""
        if self.policy == "skip":
            # Expanded tensors, whose elements share memory, are never written to.
            own = [one.detach() for one in buffers if 0 not in one.stride()]
            self._buffers = [(one, one.clone()) for one in own]

    def after_backward(self) -> None:
        """Restore the buffers if the batch is skipped, and stop guarding: later gradients are of other losses.

        The buffers are restored after the backward pass because that may need the forward pass's values.
        """
        if self._is_finite is not None:
            for buffer, before in self._buffers:
                buffer.copy_(torch.where(self._is_finite, buffer, before))
        self._buffers = []
        self._is_finite = None

    def _zero_unless_finite(self, gradient: Tensor) -> Tensor:
        return gradient if self._is_finite is None else torch.where(self._is_finite, gradient, 0)

    def watch(self, losses: BatchLosses, step: int, sample_ids: Any = None) -> Tensor | None:
        """Check the losses of one step, with `total_loss`, once they are on the host; see `check`.

        Returns:
            Whether the batch counts, as a boolean scalar on the device; None if every batch counts.
        """
        if self.policy == "ignore":
            return None
        self._pending.append(self._copy_to_host(losses, step, sample_ids))
        self.check()
        if self.policy == "skip":
            self._is_finite = torch.isfinite(losses.values[losses.names.index(TOTAL)])
        return self._is_finite

    def _copy_to_host(self, losses: BatchLosses, step: int, sample_ids: Any) -> _Step:
        values = losses.values
        asynchronous = values.device.type == "cuda"
        if self._host is None or self._host.shape[1] != len(values):
            self.check(wait=True)  # no copy to the old memory is pending then
            self._host = torch.empty(SLOTS, len(values), dtype=torch.float64, pin_memory=asynchronous)
            self._values = self._host.numpy()
        if len(self._pending) == SLOTS:
            self._examine(self._pending.popleft())
        slot = self._next_slot
        self._next_slot = (slot + 1) % SLOTS
        self._host[slot].copy_(values, non_blocking=asynchronous)
        arrived = None
        if asynchronous:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(values.device))
        return _Step(self._values[slot], losses, step, sample_ids, arrived)

    def check(self, wait: bool = False) -> None:
        """Look at the steps that have arrived, or at all.

        Raises:
            NonFiniteLossError: the total loss of one is not finite, and the policy is `"raise"`.
        """
        while self._pending:
            arrived = self._pending[0].arrived
            if arrived is not None and not wait and not arrived.query():  # type: ignore[no-untyped-call]
                return
            self._examine(self._pending.popleft())

    def _examine(self, step: _Step) -> None:
        if step.arrived is not None:
            step.arrived.synchronize()
        names = step.losses.names
        if math.isfinite(step.values[names.index(TOTAL)]):
            if not np.isfinite(step.values).all():
                self._tell_of_nothing_counted(step)
            return
        values = dict(zip(names, map(float, step.values), strict=True))
        total = values.pop(TOTAL)
        named = {name: value for name, value in values.items() if not math.isfinite(value)} or {"their sum": total}
        what = ", ".join(f"{name!r} is {value}" for name, value in named.items())
        message = f"The training loss of step {step.number} is not finite: {what}. {_samples(step.sample_ids)}"
        if self.policy == "raise":
            raise NonFiniteLossError(
                f"{message} Check these samples, the learning rate and the precision. on_nonfinite='skip' leaves "
                f"out such batches, 'ignore' continues."
            )
        warnings.warn(f"{message} The batch adds nothing to the gradient.", stacklevel=2)

    def _tell_of_nothing_counted(self, step: _Step) -> None:
        for name, value, counted in zip(step.losses.names, step.values, step.losses.counted, strict=True):
            may_be_nothing = isinstance(counted, Tensor) or counted == 0  # which is then not in the total
            if may_be_nothing and math.isnan(value) and name not in self._told:
                self._told.add(name)
                warnings.warn(
                    f"The loss {name!r} of step {step.number} is nan because nothing counted in the batch, such as a "
                    f"batch without labels. It adds nothing to the total loss and the logged mean. Later steps are not "
                    f"reported. {_samples(step.sample_ids)}",
                    stacklevel=2,
                )


def _samples(sample_ids: Any) -> str:
    if sample_ids is None:
        return "The batch has no 'data.sample_id' to name its samples."
    ids = list(sample_ids)
    shown = ", ".join(map(repr, ids[:32])) + (f" and {len(ids) - 32} more" if len(ids) > 32 else "")
    return f"Its samples: {shown}."
