"""A table of the best and the current epoch after every epoch."""

import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, LearningRateMonitor
from pytorch_lightning.trainer.states import TrainerFn
from torch.optim import Optimizer

from .checkpoints.atomic_file import replace_file
from .epoch_table import EPOCH_SECONDS, cell, epoch_table, markdown_table
from .run_folder import EPOCH_SUMMARY, with_monitor


class ModelEpochSummary(Checkpoint):
    """Prints a table of the best and the current epoch, and writes all values to `epoch_summary_<monitor>.txt`.

    The printed table has training and validation side by side. It shows the mean in place of the values of single
    classes, and marks losses, and the monitored value, that are better than in all earlier epochs. A terminal gets
    colors if rich is installed; logs get plain text.

    The table also shows the epoch's duration and the learning rate of each parameter group, under the names of
    Lightning's `LearningRateMonitor`: `lr-<optimizer>`; with several groups also `/pg1`, `/pg2`.

    If an epoch has several validations, the best one counts. The best epoch survives resuming. Only the first process
    prints and writes. Validation values are shown only for epochs with a validation. The class is a `Checkpoint` of
    Lightning, so that it runs after the module has logged its epoch, but it saves no weights.

    Args:
        model_dir: the folder of the text file; None writes no file.
        monitor: the logged name that decides the best epoch.
        mode: `"min"` if the smallest value is the best, `"max"` if the largest is.

    Raises:
        ValueError: an unknown `mode`.

    Example:
        >>> summary = ModelEpochSummary(None, monitor="validation.losses.total_loss", mode="min")
        >>> trainer = pl.Trainer(callbacks=[summary], accelerator="cpu", logger=False)
    """

    def __init__(self, model_dir: str | Path | None, monitor: str, mode: str = "min") -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"ModelEpochSummary(mode=) is 'min' or 'max', got {mode!r}.")
        self.model_dir = None if model_dir is None else Path(model_dir).expanduser()
        self.monitor = monitor
        self.mode = mode
        self.best_epoch: int | None = None
        self.best_values: dict[str, float] = {}
        self._records: dict[str, float] = {}  # the best value of each loss, and of the monitor, of all epochs
        self._trainer: pl.Trainer | None = None
        self._validated = False
        self._learning_rates: dict[str, float] = {}
        self._epoch_began: float | None = None

    @property
    def state_key(self) -> str:
        """Distinguishes several summaries in a checkpoint."""
        return f"{type(self).__name__}[monitor={self.monitor}, mode={self.mode}]"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the trainer, whose metrics are read when a checkpoint is saved."""
        self._trainer = trainer

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the trainer, so that a copy of the module and its callbacks does not copy it."""
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, including the validation that has just ended."""
        if self._trainer is not None and self._validated:  # checkpoints are saved before the epoch ends
            self._consider(self._trainer, epoch_ended=True)
        return {"best_epoch": self.best_epoch, "best_values": self.best_values, "records": self._records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.best_epoch = state_dict["best_epoch"]
        self.best_values = state_dict["best_values"]
        self._records = state_dict.get("records", {})

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the time and the learning rates: schedulers change them before the epoch ends."""
        self._epoch_began = time.monotonic()
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
        logged = any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
        self._learning_rates = {} if logged else learning_rates(trainer.optimizers)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch with the best one, and print and write both.

        Raises:
            ValueError: the monitor was not logged, and no validation follows.
        """
        missing = self.monitor not in trainer.callback_metrics and (self._validated or not trainer.enable_validation)
        if missing and not (trainer.limit_val_batches == 0 and _is_of_validation(self.monitor)):
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(
                f"ModelEpochSummary monitors {self.monitor!r}, which epoch {trainer.current_epoch} did not log. Logged "
                f"are: {logged}. Monitor one of those, in best_epoch_source for instance."
            )
        values = self._consider(trainer, epoch_ended=True)
        self._validated = False
        self._show(trainer, values)

    def _show(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        improved = self._update_records(values)
        if trainer.is_global_zero:
            best = "" if self.best_epoch is None else f", best epoch {self.best_epoch}"
            title = f"Epoch {trainer.current_epoch}{best} ({self._rule()})"
            print(f"\n{epoch_table(self.best_values, values, title, self.monitor, improved)}", flush=True)  # noqa: T201
            if self.model_dir is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                path = self.model_dir / f"{with_monitor(EPOCH_SUMMARY, self.monitor)}.txt"
                with replace_file(path) as file:
                    file.write(f"{self.table(trainer.current_epoch, values)}\n".encode())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the validation with the best one; there may be several in an epoch."""
        self._validated = trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking
        if self._validated and math.isinf(trainer.num_training_batches):  # no epoch's end will come
            self._show(trainer, self._consider(trainer, epoch_ended=True))
        elif self._validated:
            self._consider(trainer)

    def _consider(self, trainer: pl.Trainer, epoch_ended: bool = False) -> dict[str, float]:
        """The values of the current epoch. They become the best values if the epoch is the best one."""
        logged = trainer.callback_metrics
        values = {
            name: float(value)
            for name, value in logged.items()
            if (self._validated or not _is_of_validation(name))
            and (epoch_ended or not name.startswith("train"))
            and not _is_repeated(name, logged)
        }
        values.update(self._learning_rates)
        if self._epoch_began is not None:
            values[EPOCH_SECONDS] = time.monotonic() - self._epoch_began
        value = values.get(self.monitor)
        if value is not None and self._is_best(value):
            self.best_epoch = trainer.current_epoch
            self.best_values = values
        elif value is not None and self.best_epoch == trainer.current_epoch:  # what the epoch has logged since
            best = {} if value == self.best_values[self.monitor] else self.best_values  # of an earlier validation
            self.best_values = values | {name: best[name] for name in best if not name.startswith("train")}
        return values

    def _is_best(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best_epoch is None:
            return True
        best = self.best_values[self.monitor]
        return value < best if self.mode == "min" else value > best

    def _update_records(self, values: Mapping[str, float]) -> set[str]:
        """The names of the values that are better than in all earlier epochs; none in the first one."""
        improved = set()
        for name, value in values.items():
            is_monitor = name == self.monitor
            if not (is_monitor or "loss" in name) or math.isnan(value):
                continue
            largest = is_monitor and self.mode == "max"
            earlier = self._records.get(name)
            if earlier is None or (value > earlier if largest else value < earlier):
                self._records[name] = value
                improved |= set() if earlier is None else {name}
        return improved

    def _rule(self) -> str:
        return f"{'smallest' if self.mode == 'min' else 'largest'} {self.monitor}"

    def table(self, epoch: int, values: dict[str, float]) -> str:
        """All values as text, as the file holds them: a row for each logged name, with the best and current value."""
        best_title = "best epoch" if self.best_epoch is None else f"best epoch ({self.best_epoch})"
        rows = [("", best_title, f"current epoch ({epoch})")]
        for name in sorted({*values, *self.best_values}):
            mark = " *" if name == self.monitor else ""
            rows.append((name + mark, cell(name, self.best_values.get(name)), cell(name, values.get(name))))
        return f"{markdown_table(rows)}\n\n* the best epoch has the {self._rule()}"


def learning_rates(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """The learning rate of each parameter group, under the names that Lightning's `LearningRateMonitor` logs.

    Example:
        >>> import torch
        >>> weight, bias = torch.nn.Linear(2, 2).parameters()
        >>> groups = [{"params": [weight], "lr": 0.1}, {"params": [bias], "name": "bias"}]
        >>> learning_rates([torch.optim.SGD(groups, lr=0.2), torch.optim.SGD([weight], lr=0.3)])
        {'lr-SGD/pg1': 0.1, 'lr-SGD/bias': 0.2, 'lr-SGD-1': 0.3}
    """
    rates: dict[str, float] = {}
    types: list[type] = []
    for optimizer in optimizers:
        earlier = types.count(type(optimizer))
        types.append(type(optimizer))
        name = f"lr-{type(optimizer).__name__}" + (f"-{earlier}" if earlier else "")
        for position, group in enumerate(optimizer.param_groups, start=1):
            group_name = group.get("name") or (f"pg{position}" if len(optimizer.param_groups) > 1 else "")
            rates[f"{name}/{group_name}".rstrip("/")] = float(group["lr"])
    return rates


def _is_of_validation(name: str) -> bool:
    return re.match(r"val(id(ation)?)?(?![a-z])", name) is not None


def _is_repeated(name: str, logged: Mapping[str, Any]) -> bool:
    """Whether it says nothing new, as in `x_step` and `x_epoch`, which Lightning logs beside `x`, or loggers' axis."""
    stem = re.sub("_(step|epoch)$", "", name)
    return name == "step" or (stem != name and stem in logged)
