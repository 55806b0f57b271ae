"""The losses of a batch as one vector, their means over an epoch, and those since the last log."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuse_core import LOSSES, TOTAL_LOSS, NDict, log_name, number_of_samples

from ..processes import of_all_processes

TOTAL = TOTAL_LOSS.removeprefix(f"{LOSSES}.")
"""The name of the losses' sum among them."""

COUNTED = "counted"
"""The branch in which `step_losses` writes how much each loss counted in the batch."""

TERMS = "loss_terms"
"""The branch in which `step_losses` writes the terms of compound losses: `loss_terms.<loss>.<term>`."""


class BatchLosses(NamedTuple):
    """The names of a batch's losses, and their values as one vector on the device of the last.

    The vector is a copy: a compiled loss that replays CUDA graphs overwrites the memory of its previous value.
    `counted` holds how much each value is a mean over, an int or a scalar tensor; None if `step_losses` wrote nothing.
    """

    names: tuple[str, ...]
    values: Tensor
    counted: tuple[int | Tensor | None, ...]


def batch_losses(batch_dict: Mapping[str, Any]) -> BatchLosses:
    """The values under `losses.*`, written by `step_losses` or by the model, and the terms of compound losses.

    Raises:
        ValueError: a value is not a scalar tensor.

    Example:
        >>> batch_losses({"losses.cls": torch.tensor(1.0), "losses.total_loss": torch.tensor(1.5), "counted.cls": 8})
        BatchLosses(names=('cls', 'total_loss'), values=tensor([1.0000, 1.5000]), counted=(8, None))
    """
    if not isinstance(batch_dict, NDict):
        batch_dict = NDict(batch_dict)
    found: dict[str, tuple[Any, str]] = {}  # the value, and the loss that it belongs to
    counted: dict[str, Any] = {}
    for key, value in batch_dict.items():
        branch, _, name = key.partition(".")
        if branch == LOSSES:
            found[name] = value, name
        elif branch == COUNTED:
            counted[name] = value
        elif branch == TERMS:
            found[name] = value, name.rpartition(".")[0]
    for name, (value, _) in found.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(
                f"Values under 'losses.' are scalar tensors, but 'losses.{name}' is {what}. Reduce it, or keep it "
                f"under another key."
            )
    if not found:
        return BatchLosses((), torch.empty(0), ())
    values = [value for value, _ in found.values()]
    device = values[-1].device
    vector = torch.stack([value.to(device) for value in values]).detach()
    return BatchLosses(tuple(found), vector, tuple(counted.get(loss) for _, loss in found.values()))


class EpochLosses:
    """Means of the losses over what they counted in an epoch.

    Each batch's value is weighted by how much its loss counted (`counted.<name>`, see `step_losses`), or else by the
    batch's number of samples. A batch in which a loss counted nothing adds nothing, even if the value is NaN. The mean
    of `total_loss` is the sum of the means of the losses that `step_losses` added up. A loss that counted nothing in
    the whole epoch has the mean NaN and adds nothing to that sum.

    The sums stay on the losses' device; nothing is read back before `means`. A batch whose number of samples is unknown
    counts as one sample.

    Example:
        >>> epoch_losses = EpochLosses()
        >>> for value, samples in ((1.0, 3), (5.0, 1)):
        ...     epoch_losses.update(NDict({"data.sample_id": list(range(samples)), "losses.cls": torch.tensor(value)}))
        >>> epoch_losses.means()
        {'cls': tensor(2., dtype=torch.float64)}
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], _Sums] = {}  # by names: a batch may lack a loss that others have
        self._added_up: dict[str, None] = {}  # the losses whose means give the mean of total_loss

    def update(
        self,
        batch_dict: Mapping[str, Any],
        samples: int | None = None,
        counts: Tensor | None = None,
        losses: BatchLosses | None = None,
    ) -> None:
        """Add the losses of one batch.

        Args:
            batch_dict: the batch, with `losses.*`.
            samples: the number of samples, for losses without `counted.<name>`. None takes the batch's; 0 adds nothing
                of the batch.
            counts: a boolean scalar on the losses' device: whether the batch counts. None means yes.
            losses: the result of `batch_losses` for this batch, if it is there already.
        """
        names, values, counted = batch_losses(batch_dict) if losses is None else losses
        sums = self._sums.get(names)
        if sums is None:  # also for a batch that adds nothing: all processes reduce the same names
            sums = self._sums[names] = _Sums(values)
            if TOTAL in names:
                self._added_up.update({name: None for name in names if f"{COUNTED}.{name}" in batch_dict})
        if samples == 0 or not names:
            return
        if any(one is None for one in counted):  # `in` would compare tensors
            default = samples or number_of_samples(batch_dict) or 1
            counted = tuple(default if one is None else one for one in counted)
        sums.add(values, counted, counts)  # type: ignore[arg-type]  # no element is None

    def means(self, reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean of each loss since the last `reset`.

        Args:
            reduce_sum: sums a tensor over processes, which must have the same losses; see `share_names`.
        """
        return self.means_and_counted(reduce_sum)[0]

    def means_and_counted(
        self, reduce_sum: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The mean of each loss, and how much each counted; see `means`."""
        names, sums = self.sums()
        if not names:
            return {}, {}
        if reduce_sum is not None:
            sums = reduce_sum(sums)
        return self.means_of(names, sums), dict(zip(names, sums[1].unbind(), strict=True))

    def means_of(self, names: tuple[str, ...], sums: Tensor) -> dict[str, Tensor]:
        """The means that sums give; see `sums`."""
        means = dict(zip(names, (sums[0] / sums[1]).unbind(), strict=True))
        parts = [names.index(name) for name in self._added_up]
        if parts:
            added, counted = sums[:, parts]
            total = torch.where(counted > 0, added / counted, 0).sum()
            means[TOTAL] = torch.where((counted > 0).any(), total, torch.nan)
        return means

    def sums(self) -> tuple[tuple[str, ...], Tensor]:
        """The sorted names of the losses; their weighted sums and how much they counted, of shape (2, losses)."""
        by_name: dict[str, Tensor] = {}
        for names, sums in self._sums.items():
            for name, one in zip(names, torch.stack((sums.weighted, sums.counted), dim=1), strict=True):
                by_name[name] = by_name[name] + one if name in by_name else one
        names = tuple(sorted(by_name))  # the same order on all processes
        return names, torch.stack([by_name[name] for name in names], dim=1) if names else torch.empty(2, 0)

    def share_names(self, device: torch.device) -> None:
        """Have the losses of all processes on each process: some may have had fewer batches, or none."""
        for names_of_batches, added_up in of_all_processes((list(self._sums), list(self._added_up))):
            for names in names_of_batches:
                self._sums.setdefault(names, _Sums(torch.empty(len(names), device=device)))
            self._added_up.update(dict.fromkeys(added_up))

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self._sums.clear()
        self._added_up.clear()

    def state_dict(self) -> dict[str, Any]:
        """The sums, to be continued with `load_state_dict`."""
        return {
            "added_up": list(self._added_up),
            "sums": [(names, sums.weighted.cpu(), sums.counted.cpu()) for names, sums in self._sums.items()],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Continue from the result of `state_dict`."""
        self.reset()
        self._added_up.update(dict.fromkeys(state_dict["added_up"]))
        for names, weighted, counted in state_dict["sums"]:
            sums = self._sums[tuple(names)] = _Sums(weighted.to(device))
            sums.weighted.copy_(weighted)
            sums.counted.copy_(counted)


class _Sums:
    """The sums of the losses of batches that have the same losses."""

    def __init__(self, like: Tensor) -> None:
        dtype = torch.float32 if like.device.type == "mps" else torch.float64  # mps has no float64
        self.weighted = torch.zeros(like.shape, dtype=dtype, device=like.device)
        self.counted = torch.zeros_like(self.weighted)
        self._numbers: dict[int, Tensor] = {}  # as tensors on the device

    def add(self, values: Tensor, counted: tuple[int | Tensor, ...], counts: Tensor | None) -> None:
        """Add the values of one batch."""
        first = counted[0]
        if counts is None and isinstance(first, int) and len(set(counted)) == 1:
            if first:
                self.weighted.add_(values, alpha=first)
                self.counted.add_(first)
            return
        weights = torch.stack([self._on_device(one) for one in counted])
        if counts is not None:
            weights = torch.where(counts, weights, 0)
        self.weighted.addcmul_(torch.where(weights > 0, values, 0), weights)
        self.counted.add_(weights)

    def _on_device(self, counted: int | Tensor) -> Tensor:
        if isinstance(counted, Tensor):
            return counted.detach().to(self.weighted.device, self.weighted.dtype).reshape(())
        if counted not in self._numbers:
            self._numbers[counted] = torch.full((), counted, dtype=self.weighted.dtype, device=self.weighted.device)
        return self._numbers[counted]


class _Copy(NamedTuple):
    """Sums that are being copied to the host; `arrived` is None if they are there."""

    step: int
    names: tuple[str, ...]
    sums: Tensor
    arrived: torch.cuda.Event | None


class RunningLosses:
    """Logs the means of the training losses since the last log, as differences of an epoch's sums.

    The sums are copied to the host without blocking. On a GPU they arrive a few steps later.

    Args:
        epoch_losses: the epoch's losses.
        sep: the separator in logged names.
    """

    def __init__(self, epoch_losses: EpochLosses, sep: str) -> None:
        self.epoch_losses = epoch_losses
        self.sep = sep
        self.names: set[str] = set()  # of the losses logged so far
        self.logged_step = 0
        self.logged: dict[str, tuple[float, float]] = {}  # the weighted sums and counts of the epoch at the last log
        self._pending: deque[_Copy] = deque()

    def start(self) -> None:
        """Begin an epoch, with sums of zero."""
        self.logged = {}
        self._pending.clear()

    def log(self, trainer: Any, wait: bool = False) -> bool:
        """Log the means since the last log, if it is time, once they have arrived on the host.

        Args:
            trainer: the trainer.
            wait: wait for those that have not arrived.

        Returns:
            Whether any were logged.
        """
        step, every = trainer.global_step, trainer.log_every_n_steps
        if step != self.logged_step and every and step % every == 0:
            self.logged_step = step
            # Lightning's x-axis: with several optimizers, a batch is one step of it.
            self._copy(trainer.fit_loop.epoch_loop._batches_that_stepped)
        any_logged = False
        while self._pending:
            arrived = self._pending[0].arrived
            if arrived is not None:
                if not wait and not arrived.query():  # type: ignore[no-untyped-call]
                    break
                arrived.synchronize()
            self._log(trainer, self._pending.popleft())
            any_logged = True
        return any_logged

    def _copy(self, step: int) -> None:
        names, sums = self.epoch_losses.sums()
        if not names:
            return
        asynchronous = sums.device.type == "cuda"
        host = torch.empty(sums.shape, dtype=torch.float64, pin_memory=asynchronous)
        host.copy_(sums, non_blocking=asynchronous)
        arrived = None
        if asynchronous:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(sums.device))
        self._pending.append(_Copy(step, names, host, arrived))

    def _log(self, trainer: Any, copy: _Copy) -> None:
        before = torch.tensor([self.logged.get(name, (0.0, 0.0)) for name in copy.names], dtype=torch.float64).T
        means = {name: float(mean) for name, mean in self.epoch_losses.means_of(copy.names, copy.sums - before).items()}
        columns: Any = copy.sums.T.tolist()
        self.logged = {name: (total, counted) for name, (total, counted) in zip(copy.names, columns, strict=True)}
        logged = {f"{log_name('train', LOSSES, *name.split('.'), sep=self.sep)}_step": means[name] for name in means}
        for logger in trainer.loggers:
            logger.log_metrics({**logged, "epoch": float(trainer.current_epoch)}, step=copy.step)
            logger.save()
        # On the CPU: a value on the device would have to be read back.
        trainer.callback_metrics.update({name: torch.tensor(mean) for name, mean in logged.items()})
        self.names.update(means)
        trainer.progress_bar_metrics.update(means)
