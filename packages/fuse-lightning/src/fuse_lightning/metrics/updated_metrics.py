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

    A metric with list states gathers them from all processes, some metrics one element after the other. A process with
    fewer validation batches than others has shorter lists. So they get empty tensors like those of the other processes:
    torchmetrics gathers tensors of equal dtype and rank only. Call it on every process.
    """
    parts = {name: list(_parts(metric)) for name, metric in metrics.items()}
    own = {name: (_is_updated(metric), [_lists(one) for one in parts[name]]) for name, metric in metrics.items()}
    everywhere = of_all_processes(own)
    for states in everywhere:
        for name, each in parts.items():
            for metric, lists in zip(each, states[name][1], strict=True):
                for attribute, (length, shape, dtype) in lists.items():
                    elements = getattr(metric, attribute)
                    empty = torch.empty((0, *shape), dtype=dtype, device=metric.device)
                    elements += [empty] * (length - len(elements))
    return {name for name in metrics if any(states[name][0] for states in everywhere)}


def _parts(metric: Any) -> Iterable[Metric]:
    return (one for one in metric.modules() if isinstance(one, Metric)) if isinstance(metric, nn.Module) else ()


def _is_updated(metric: Any) -> bool:
    """Whether the metric was updated on this process; True if it does not tell, as torchmetrics' wrappers."""
    if isinstance(metric, Metric) and not isinstance(metric, WrapperMetric):
        return metric.update_called
    return getattr(metric, "has_samples", True)


def _lists(metric: Metric) -> dict[str, tuple[int, torch.Size, torch.dtype]]:
    """The length of each list state of tensors, and their shape without the batch axis and dtype."""
    states = metric.metric_state.items()
    lists = {name: value for name, value in states if isinstance(value, list) and value}
    tensors = {name: one for name, one in lists.items() if isinstance(one[0], torch.Tensor)}
    return {name: (len(one), one[0].shape[1:], one[0].dtype) for name, one in tensors.items()}
