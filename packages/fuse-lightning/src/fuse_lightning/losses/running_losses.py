"""The training losses' means since the last log, for loggers and the progress bar."""

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .epoch_losses import EpochLosses

Sums = dict[str, tuple[float, float]]
"""For each loss, the weighted sum and how much it counted."""


class _Copy(NamedTuple):
    """Sums that are being copied to the host; `arrived` is None if they are there."""

    step: int
    names: tuple[str, ...]
    sums: Tensor
    arrived: torch.cuda.Event | None


class RunningLosses:
    """Means of the losses between two logs, as differences of an epoch's sums.

    The sums are copied to the host without blocking. On a GPU they arrive a few steps later.
    """

    def __init__(self) -> None:
        self.logged: Sums = {}  # the epoch's sums at the last log
        self.pending: deque[_Copy] = deque()  # the copied steps that `arrived` has not returned

    def start(self) -> None:
        """Begin an epoch, with sums of zero."""
        self.logged = {}
        self.pending.clear()

    def copy(self, step: int, epoch_losses: EpochLosses) -> None:
        """Start to copy the sums of a step."""
        names, sums = epoch_losses.sums()
        if not names:
            return
        asynchronous = sums.device.type == "cuda"
        host = torch.empty(sums.shape, dtype=torch.float64, pin_memory=asynchronous)
        host.copy_(sums, non_blocking=asynchronous)
        arrived = None
        if asynchronous:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(sums.device))
        self.pending.append(_Copy(step, names, host, arrived))

    def arrived(self, epoch_losses: EpochLosses, wait: bool = False) -> list[tuple[int, dict[str, float]]]:
        """The means of each copied step that has arrived, with the number of the step.

        Args:
            epoch_losses: the epoch's losses.
            wait: wait for the steps that have not arrived.
        """
        means: list[tuple[int, dict[str, float]]] = []
        while self.pending:
            step, names, sums, arrived = self.pending[0]
            if arrived is not None and not arrived.query():  # type: ignore[no-untyped-call]
                if not wait:
                    break
                arrived.synchronize()
            self.pending.popleft()
            before = torch.tensor([self.logged.get(name, (0.0, 0.0)) for name in names], dtype=torch.float64).T
            values = epoch_losses.means_of(names, sums - before)
            means.append((step, {name: float(value) for name, value in values.items()}))
            columns: Any = sums.T.tolist()
            self.logged = {name: (total, counted) for name, (total, counted) in zip(names, columns, strict=True)}
        return means
