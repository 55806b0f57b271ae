"""The metrics of one mode, with separate values for each loader."""

import copy
import inspect
from collections.abc import Iterable

from torch import nn
from torchmetrics import Metric

from ..loaders.components_by_loader import LoaderComponents, PerLoader, of_loader, register_components
from .metric_collected import MetricCollected, registered


def register_metrics(argument: str, metrics: PerLoader | None, in_use: Iterable[nn.Module] = ()) -> nn.ModuleDict:
    """The metrics as modules; see `register_components`.

    A metric accumulates values. A metric that was given twice, under two names, for two loaders or for training and
    validation, is copied. Otherwise both would accumulate into one state, and validation, which runs within a training
    epoch, would reset training's values.

    Args:
        argument: the name of LightningModuleDefault's argument, for messages.
        metrics: its value.
        in_use: metrics that accumulate other batches at the same time.

    Raises:
        TypeError: a metric does not take a batch_dict, such as a bare metric of predictions and targets.
    """
    modules = register_components(argument, metrics, registered)
    taken = {identity for group in in_use for metric in group.children() for identity in _accumulating(metric)}
    groups = [of_loader(modules, name) for name in modules] if isinstance(modules, LoaderComponents) else [modules]
    for group in groups:
        for name, metric in group.items():
            _check_takes_batch_dict(argument, name, metric)
            if not taken.isdisjoint(_accumulating(metric)):
                group[name] = copy.deepcopy(metric)
            taken.update(_accumulating(group[name]))
    return modules


def _check_takes_batch_dict(argument: str, name: str, metric: nn.Module) -> None:
    where = f"LightningModuleDefault({argument}=): {name!r}, a {type(metric).__name__},"
    lacking = [method for method in ("update", "compute", "reset") if not callable(getattr(metric, method, None))]
    if lacking:
        raise TypeError(f"{where} is not a metric: it has no {', '.join(lacking)}. Wrap a torchmetrics metric.")
    if isinstance(metric, Metric):
        try:
            inspect.signature(metric.update).bind({})
        except TypeError:
            raise TypeError(
                f"{where} takes predictions and targets, but is given the batch_dict. Wrap it: MetricDefault(pred=key, "
                f"target=key, metric=...), or MetricWrapToDict for other arguments."
            ) from None


def _accumulating(metric: nn.Module) -> set[int]:
    """The identities of the parts that accumulate: torchmetrics' metrics, not networks that metrics may share."""
    parts = {id(one) for one in metric.modules() if isinstance(one, Metric)}
    return {id(metric.metric if isinstance(metric, MetricCollected) else metric), *parts}
