"""The sums of losses and metrics in a checkpoint, so that an epoch that is resumed inside is logged whole."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.loops.fit_loop import _FitLoop as FitLoop
from torch import Tensor, nn
from torchmetrics import Metric

EPOCH_SUMS = "epoch_sums"
"""The key in a checkpoint."""


def metric_states(metrics: nn.ModuleDict) -> dict[str, Any]:
    """The states of torchmetrics' metrics by their names, on the CPU, and their numbers of updates."""
    states: dict[str, Any] = {}
    for name, metric in metrics.named_modules():
        if isinstance(metric, Metric):
            state = _on_device(metric.metric_state, torch.device("cpu"))
            states[name] = {"states": state, "updates": metric.update_count}
        elif hasattr(metric, "has_samples"):
            states[name] = {"has_samples": metric.has_samples}
    return states


def load_metric_states(metrics: nn.ModuleDict, states: Mapping[str, Any]) -> None:
    """Set the states that `metric_states` returned. Metrics that it did not return stay as they are."""
    for name, metric in metrics.named_modules():
        if isinstance(metric, Metric) and name in states:
            for attribute, value in _on_device(states[name]["states"], metric.device).items():
                setattr(metric, attribute, value)
            metric._update_count = states[name]["updates"]  # torchmetrics has no public way
        elif hasattr(metric, "has_samples") and name in states:
            metric.has_samples = states[name]["has_samples"]


def begin_next_epoch(fit_loop: FitLoop) -> None:
    """Go on with the next epoch if a run is resumed from an epoch's end. Call it when training starts.

    With `max_steps`, Lightning would end that epoch a second time: callbacks would miss the values that they monitor,
    and without validation it would train on a further batch.
    """
    if fit_loop.restarted_on_epoch_end and fit_loop.epoch_loop.batch_progress.is_last_batch:
        fit_loop.epoch_progress.increment_completed()
        for loop in (fit_loop, fit_loop.epoch_loop):
            loop.on_iteration_done()  # no longer resuming: the epoch makes a new iterator of the loader


def of_all_processes(own: Any) -> list[Any]:
    """The values of every process, by rank. Call it on every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    everywhere: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everywhere, own)
    return everywhere


def _on_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _on_device(one, device) for name, one in value.items()}
    if isinstance(value, list):
        return [_on_device(one, device) for one in value]
    return value.detach().to(device) if isinstance(value, Tensor) else value
