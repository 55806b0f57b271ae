"""Metrics that were not updated in an epoch, on one process or on all of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from ..processes import of_all_processes


def updated_metrics(metrics: Mapping[str, Any] | nn.ModuleDict) -> set[str]:
    """Prepare metrics for `compute`, and tell which of them were updated on at least one process.

    A metric with list states gathers them from all processes. A process with fewer validation batches than others may
    have empty lists, and torchmetrics gathers tensors of equal dtype and rank only. So empty lists get an empty tensor
    like those of the other processes. Call it on every process.
    """
    parts = {name: list(_parts(metric)) for name, metric in metrics.items()}
    own = {name: (_is_updated(metric), [_lists(one) for one in parts[name]]) for name, metric in metrics.items()}
    everywhere = of_all_processes(own)
    for states in everywhere:
        for name, each in parts.items():
            for metric, lists in zip(each, states[name][1], strict=True):
                for attribute, (shape, dtype) in lists.items():
                    if not getattr(metric, attribute):
                        getattr(metric, attribute).append(torch.empty((0, *shape), dtype=dtype, device=metric.device))
    return {name for name in metrics if any(states[name][0] for states in everywhere)}


def _parts(metric: Any) -> Iterable[Metric]:
    return (one for one in metric.modules() if isinstance(one, Metric)) if isinstance(metric, nn.Module) else ()


def _is_updated(metric: Any) -> bool:
    """Whether the metric was updated on this process; True if it does not tell, as torchmetrics' wrappers."""
    if isinstance(metric, Metric) and not isinstance(metric, WrapperMetric):
        return metric.update_called
    return getattr(metric, "has_samples", True)


def _lists(metric: Metric) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shape without the batch axis, and the dtype, of each list state that is not empty."""
    states = metric.metric_state.items()
    lists = {name: value[0] for name, value in states if isinstance(value, list) and value}
    tensors = {name: one for name, one in lists.items() if isinstance(one, torch.Tensor)}
    return {name: (one.shape[1:], one.dtype) for name, one in tensors.items()}
