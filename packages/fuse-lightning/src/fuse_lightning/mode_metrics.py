"""Metrics of one mode, each loader with values of its own."""

import copy
from collections.abc import Iterable

from torch import nn
from torchmetrics import Metric

from .loader_components import LoaderComponents, PerLoader, of_loader, register_components
from .metric_collected import MetricCollected, registered


def register_metrics(argument: str, metrics: PerLoader | None, in_use: Iterable[nn.Module] = ()) -> nn.ModuleDict:
    """The metrics as modules; see `register_components`.

    A metric adds up what it is given. One that was given under another name or for another loader too, or is in use
    already, is copied: with each other's values both would be wrong, and validation, which runs within a training
    epoch, would clear what training has added up.

    Args:
        argument: the name of LightningModuleDefault's argument, for messages.
        metrics: what that argument was given; None for none.
        in_use: metrics that add up other batches at the same time.
    """
    modules = register_components(argument, metrics, registered)
    taken = {identity for group in in_use for metric in group.children() for identity in _accumulating(metric)}
    groups = [of_loader(modules, name) for name in modules] if isinstance(modules, LoaderComponents) else [modules]
    for group in groups:
        for name, metric in group.items():
            if not taken.isdisjoint(_accumulating(metric)):
                group[name] = copy.deepcopy(metric)
            taken.update(_accumulating(group[name]))
    return modules


def _accumulating(metric: nn.Module) -> set[int]:
    """The identities of what adds up: the metrics in a module, not networks that several of them may use."""
    parts = {id(one) for one in metric.modules() if isinstance(one, Metric)}
    return {id(metric.metric if isinstance(metric, MetricCollected) else metric), *parts}
