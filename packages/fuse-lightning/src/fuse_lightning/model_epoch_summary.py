"""A table of the best and the current epoch, after every epoch."""

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint


class ModelEpochSummary(Checkpoint):
    """Prints the logged values of the best and the current epoch, and writes them to `epoch_summary_<monitor>.txt`.

    Beside them stand the epoch's learning rates, one for each parameter group, and its duration in seconds.

    Of several validations in an epoch, the best one tells. The best epoch survives resuming. Only the first process
    prints and writes. Validation values are shown for epochs that validated. It is a `Checkpoint` in Lightning's sense,
    a callback that runs after the module has logged its epoch, but it saves no weights.

    Args:
        model_dir: where the text file is written; None writes none.
        monitor: the logged name that tells the best epoch.
        mode: whether the best value is the smallest, `"min"`, or the largest, `"max"`.

    Raises:
        ValueError: an unknown `mode`.
    """

    def __init__(self, model_dir: str | Path | None, monitor: str, mode: str = "min") -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"ModelEpochSummary(mode=) is 'min' or 'max', got {mode!r}.")
        self.model_dir = None if model_dir is None else Path(model_dir)
        self.monitor = monitor
        self.mode = mode
        self.best_epoch: int | None = None
        self.best_values: dict[str, float] = {}
        self._trainer: pl.Trainer | None = None
        self._validated = False
        self._learning_rates: dict[str, float] = {}
        self._epoch_began: float | None = None

    @property
    def state_key(self) -> str:
        """Tells several summaries apart in a checkpoint."""
        return f"{type(self).__name__}[monitor={self.monitor}, mode={self.mode}]"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the trainer, to look at its metrics when a checkpoint is saved."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, that of the validation that has just ended included."""
        if self._trainer is not None and self._validated:  # checkpoints are saved before the epoch ends
            self._consider(self._trainer, epoch_ended=True)
        return {"best_epoch": self.best_epoch, "best_values": self.best_values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.best_epoch = state_dict["best_epoch"]
        self.best_values = state_dict["best_values"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time and the learning rates, which schedulers change before the epoch ends."""
        self._epoch_began = time.monotonic()
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        names = ["learning rate"] if len(rates) == 1 else [f"learning rate {i}" for i in range(len(rates))]
        self._learning_rates = dict(zip(names, rates, strict=True))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch with the best one, and print and write both.

        Raises:
            ValueError: the monitor has not been logged, and nothing more is to come.
        """
        if self.monitor not in trainer.callback_metrics and (self._validated or not trainer.enable_validation):
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(
                f"ModelEpochSummary monitors {self.monitor!r}, which epoch {trainer.current_epoch} did not log. Logged "
                f"are: {logged}. Monitor one of those, in best_epoch_source for instance."
            )
        values = self._consider(trainer, epoch_ended=True)
        self._validated = False
        table = self.table(trainer.current_epoch, values)
        if trainer.is_global_zero:
            print(f"\n{table}", flush=True)  # noqa: T201
            if self.model_dir is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                self.model_dir.mkdir(parents=True, exist_ok=True)
                name = self.monitor.replace("/", "_")
                (self.model_dir / f"epoch_summary_{name}.txt").write_text(f"{table}\n")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the validation with the best one; there may be several in an epoch."""
        self._validated = not trainer.sanity_checking
        if self._validated:
            self._consider(trainer)

    def _consider(self, trainer: pl.Trainer, epoch_ended: bool = False) -> dict[str, float]:
        """The values of the current epoch, which become the best ones if they are, or belong to the best epoch."""
        from_earlier_epochs = (*(() if self._validated else ("validation",)), *(() if epoch_ended else ("train",)))
        values = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.startswith(from_earlier_epochs)
        }
        values.update(self._learning_rates)
        if self._epoch_began is not None:
            values["epoch seconds"] = time.monotonic() - self._epoch_began
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

    def table(self, epoch: int, values: dict[str, float]) -> str:
        """The table as text: a row per logged name, with the best and the current epoch's value."""
        best_title = "best epoch" if self.best_epoch is None else f"best epoch ({self.best_epoch})"
        rows = [("", best_title, f"current epoch ({epoch})")]
        for name in sorted({*values, *self.best_values}):
            mark = " *" if name == self.monitor else ""
            rows.append((name + mark, _number(self.best_values.get(name)), _number(values.get(name))))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"| {row[0]:<{widths[0]}} | {row[1]:>{widths[1]}} | {row[2]:>{widths[2]}} |" for row in rows]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        footer = f"* the best epoch is the one with the {'smallest' if self.mode == 'min' else 'largest'}"
        return "\n".join([lines[0], rule, *lines[1:], footer])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.5f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3e}"
