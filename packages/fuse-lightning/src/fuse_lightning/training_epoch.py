"""Training: the losses and metrics of an epoch, and those of the steps since the last log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from fuse_core import LOSSES, NDict, log_name

from .checkpoints.inside_epoch import load_metric_states, metric_states, of_all_processes
from .losses.epoch_losses import BatchLosses, EpochLosses
from .losses.running_losses import RunningLosses
from .step_functions import (
    epoch_end_compute_and_log_losses,
    epoch_end_compute_and_log_metrics,
    reset_metrics,
    step_metrics,
)


class TrainingEpoch:
    """The losses and metrics of the training epoch of a module, which has `losses` and `train_metrics`.

    Args:
        sep: the separator in logged names.
        shown: logged names that the progress bar shows beside the losses.
    """

    def __init__(self, sep: str, shown: Sequence[str] = ()) -> None:
        self.sep = sep
        self.shown = tuple(shown)
        self.loss_names: set[str] = set()  # those in the progress bar's values
        self.closure_callback: Any = None  # see `repeated_closures`
        self._losses = EpochLosses()
        self._running = RunningLosses()
        self._logged_step = 0
        self._last_batch: int | None = None
        self._resumed: Sequence[Any] = ()  # the state of a resumed epoch, by process
        self._ended_inside: dict[str, Any] | None = None  # the state of an epoch that max_steps or max_time ended

    def start(self, pl_module: Any) -> None:
        """Begin an epoch."""
        self._ended_inside = None
        self._last_batch = None
        self._losses.reset()
        self._running.start()
        reset_metrics(pl_module.train_metrics)

    def add(
        self, pl_module: Any, batch_dict: NDict, batch_idx: int, losses: BatchLosses, counts: Tensor | None
    ) -> None:
        """Add a batch to losses and metrics, if it was evaluated at the current weights.

        SAM evaluates a batch a second time, at moved weights.

        Args:
            pl_module: the module.
            batch_dict: the batch, with its losses.
            batch_idx: the batch's number.
            losses: the batch's losses.
            counts: see `EpochLosses.update`.
        """
        if self.closure_callback is not None:
            is_first_pass = not self.closure_callback.repeated_pass
        else:
            is_first_pass = batch_idx != self._last_batch
            self._last_batch = batch_idx
        if is_first_pass:
            self._losses.update(batch_dict, counts=counts, losses=losses)
            step_metrics(pl_module.train_metrics, batch_dict)

    def log_step(self, pl_module: pl.LightningModule, wait: bool = False) -> None:
        """Log the losses' means since the last log, if it is time, once they have arrived on the host.

        Args:
            pl_module: the module.
            wait: wait for those that have not arrived.
        """
        trainer: Any = pl_module.trainer
        step, every = trainer.global_step, trainer.log_every_n_steps
        if step != self._logged_step and every and step % every == 0:
            self._logged_step = step
            self._running.copy(step - 1, self._losses)
        if not self._running.pending:
            return
        for of_step, means in self._running.arrived(self._losses, wait):
            logged = {
                f"{log_name('train', LOSSES, *name.split('.'), sep=self.sep)}_step": means[name] for name in means
            }
            for logger in trainer.loggers:
                logger.log_metrics({**logged, "epoch": float(trainer.current_epoch)}, step=of_step)
                logger.save()
            # On the CPU: a value on the device would have to be read back.
            trainer.callback_metrics.update({name: torch.tensor(mean) for name, mean in logged.items()})
            self.loss_names.update(means)
            trainer.progress_bar_metrics.update(means)
            self.show(trainer)

    def show(self, trainer: pl.Trainer) -> None:
        """Show the chosen logged values in the progress bar."""
        logged = trainer.callback_metrics if self.shown else {}
        trainer.progress_bar_metrics.update({name: float(logged[name]) for name in self.shown if name in logged})

    def log(self, pl_module: Any, log_counted: bool, folder: Path | None) -> None:
        """Log the epoch's losses and metrics."""
        is_whole = pl_module.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._ended_inside = None if is_whole else self._state(pl_module)
        epoch_end_compute_and_log_losses(pl_module, "train", self._losses, self.sep, log_counted)
        epoch_end_compute_and_log_metrics(pl_module, "train", pl_module.train_metrics, self.sep, folder)

    def states(self, pl_module: Any) -> list[Any]:
        """What a checkpoint holds of the epoch so far, by process, so that a resumed epoch is logged whole."""
        return of_all_processes(self._ended_inside or self._state(pl_module))

    def continue_with(self, states: Sequence[Any] | None) -> None:
        """Have `resume` take the states of a checkpoint; None or an empty sequence for a new training."""
        self._resumed, self._ended_inside = states or (), None

    def resume(self, pl_module: Any) -> None:
        """Go on from the checkpoint, when training starts, and do what came after it was written in its step."""
        trainer = pl_module.trainer
        self._logged_step = trainer.global_step
        if len(self._resumed) != trainer.world_size:
            return
        own: Mapping[str, Any] = self._resumed[trainer.global_rank]
        self._losses.load_state_dict(own["losses"], pl_module.device)
        self._running.logged = own["logged"]
        load_metric_states(pl_module.train_metrics, own["metrics"])
        # An epoch that max_steps cuts off has no validation: what monitors one sees the values of the epoch before.
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in own["values"].items()})
        if trainer.fit_loop.restarted_mid_epoch:
            self._logged_step = own["logged_step"]
            self.log_step(pl_module, wait=True)
            if trainer.fit_loop.epoch_loop.restarted_on_train_batch_end:
                trainer.fit_loop.epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)

    def _state(self, pl_module: Any) -> dict[str, Any]:
        return {
            "losses": self._losses.state_dict(),
            "logged": self._running.logged,
            "logged_step": self._logged_step,
            "metrics": metric_states(pl_module.train_metrics),
            "values": {name: value.detach().cpu() for name, value in pl_module.trainer.callback_metrics.items()},
        }
