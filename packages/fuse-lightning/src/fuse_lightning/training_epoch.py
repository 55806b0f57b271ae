"""The training epoch in a checkpoint, so that an epoch that is resumed inside is logged whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.loops.fit_loop import _FitLoop as FitLoop
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.wrappers import Running

from .losses.epoch_losses import EpochLosses, RunningLosses
from .processes import of_all_processes
from .step_functions import reset_metrics

EPOCH_SUMS = "epoch_sums"
"""The key in a checkpoint."""


class TrainingEpoch:
    """The losses of a module's training epoch, and the state of its losses and `train_metrics` in checkpoints.

    Args:
        sep: the separator in logged names.
    """

    def __init__(self, sep: str) -> None:
        self.losses = EpochLosses()
        self.running = RunningLosses(self.losses, sep)
        self.last_batch: int | None = None
        self._resumed: Sequence[Any] = ()  # the state of a resumed epoch, by process
        self._ended_inside: dict[str, Any] | None = None  # the state of an epoch that max_steps or max_time ended

    def start(self, pl_module: Any) -> None:
        """Begin an epoch."""
        self._ended_inside = None
        self.last_batch = None
        self.losses.reset()
        self.running.start()
        reset_metrics(pl_module.train_metrics)

    def end(self, pl_module: Any) -> None:
        """Keep the state if the epoch ends inside. Call it before losses and metrics are logged and reset."""
        is_whole = pl_module.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._ended_inside = None if is_whole else self._state(pl_module)

    def states(self, pl_module: Any) -> list[Any]:
        """What a checkpoint holds of the epoch so far, by process."""
        return of_all_processes(self._ended_inside or self._state(pl_module))

    def continue_with(self, states: Sequence[Any] | None) -> None:
        """Have `resume` take the states of a checkpoint; None or an empty sequence for a new training."""
        self._resumed, self._ended_inside = states or (), None

    def resume(self, pl_module: Any) -> None:
        """Go on from the checkpoint, when training starts, and do what came after it was written in its step."""
        trainer = pl_module.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):  # Lightning skips it in an epoch resumed inside
                callback.on_train_epoch_start(trainer)
        self.running.logged_step = trainer.global_step
        if len(self._resumed) != trainer.world_size:
            return
        own: Mapping[str, Any] = self._resumed[trainer.global_rank]
        self.losses.load_state_dict(own["losses"], pl_module.device)
        self.running.logged = own["logged"]
        _load_metric_states(pl_module.train_metrics, own["metrics"])
        # An epoch that max_steps cuts off has no validation: what monitors one sees the values of the epoch before.
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in own["values"].items()})
        if trainer.fit_loop.restarted_mid_epoch:
            self.running.logged_step = own["logged_step"]
            self.running.log(trainer, wait=True)
            if trainer.fit_loop.epoch_loop.restarted_on_train_batch_end:
                trainer.fit_loop.epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)

    def _state(self, pl_module: Any) -> dict[str, Any]:
        return {
            "losses": self.losses.state_dict(),
            "logged": self.running.logged,
            "logged_step": self.running.logged_step,
            "metrics": _metric_states(pl_module.train_metrics),
            "values": {name: value.detach().cpu() for name, value in pl_module.trainer.callback_metrics.items()},
        }


def _metric_states(metrics: nn.ModuleDict) -> dict[str, Any]:
    """The states of torchmetrics' metrics by their names, on the CPU, and their numbers of updates."""
    states: dict[str, Any] = {}
    for name, metric in metrics.named_modules():
        if isinstance(metric, Metric):
            state = _on_device(metric.metric_state, torch.device("cpu"))
            states[name] = {"states": state, "updates": metric.update_count}
            if isinstance(metric, Running):
                states[name]["seen"] = metric._num_vals_seen
        elif hasattr(metric, "has_samples"):
            states[name] = {"has_samples": metric.has_samples}
    return states


def _load_metric_states(metrics: nn.ModuleDict, states: Mapping[str, Any]) -> None:
    """Set the states that `_metric_states` returned. Metrics that it did not return stay as they are."""
    for name, metric in metrics.named_modules():
        if isinstance(metric, Metric) and name in states:
            for attribute, value in _on_device(states[name]["states"], metric.device).items():
                setattr(metric, attribute, value)
            metric._update_count = states[name]["updates"]  # torchmetrics has no public way
            if isinstance(metric, Running):
                metric._num_vals_seen = states[name].get("seen", 0)
        elif hasattr(metric, "has_samples") and name in states:
            metric.has_samples = states[name]["has_samples"]


def _on_device(value: Any, device: torch.device) -> Any:
    """Copies: metrics of a MetricCollection may share a state, which each of them would change when it goes on."""
    if isinstance(value, Mapping):
        return {name: _on_device(one, device) for name, one in value.items()}
    if isinstance(value, list):
        return [_on_device(one, device) for one in value]
    return value.detach().to(device, copy=True) if isinstance(value, Tensor) else value


def begin_next_epoch(fit_loop: FitLoop) -> None:
    """Go on with the next epoch if a run is resumed from an epoch's end. Call it when training starts.

    With `max_steps`, Lightning would end that epoch a second time: callbacks would miss the values that they monitor,
    and without validation it would train on a further batch.
    """
    if fit_loop.restarted_on_epoch_end and fit_loop.epoch_loop.batch_progress.is_last_batch:
        fit_loop.epoch_progress.increment_completed()
        for loop in (fit_loop, fit_loop.epoch_loop):
            loop.on_iteration_done()  # no longer resuming: the epoch makes a new iterator of the loader
