"""Metrics with FuseMedML's interface: `collect`, `eval` and `reset`."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from fuse_core import NDict


@runtime_checkable
class CollectingMetric(Protocol):
    """A metric that collects batches, to be evaluated at the end."""

    def collect(self, batch: Any, /) -> Any:
        """Take in one batch."""

    def eval(self, results: Any = ..., /) -> Any:
        """The value, or values by name. `results` holds the results of earlier metrics under `metrics`."""

    def reset(self) -> Any:
        """Forget everything."""


class MetricCollected(nn.Module):
    """Registers an object that has `collect`, `eval` and `reset`, and gives it the interface of `MetricDefault`.

    LightningModuleDefault wraps such metrics by itself. The object is called on every process and must reduce its
    value across processes itself.

    Args:
        metric: the object. It is given the whole batch, so its keys are not known before the first step.

    Example:
        >>> class Count:
        ...     samples = 0
        ...
        ...     def collect(self, batch):
        ...         self.samples += len(batch["data.sample_id"])
        ...
        ...     def eval(self, results=None):
        ...         return {"samples": self.samples}
        ...
        ...     def reset(self):
        ...         self.samples = 0
        >>> count = MetricCollected(Count())
        >>> count.update({"data.sample_id": ["a", "b"]})
        >>> count.compute()
        {'samples': 2}
    """

    def __init__(self, metric: CollectingMetric) -> None:
        super().__init__()
        if not isinstance(metric, CollectingMetric):
            raise TypeError(f"MetricCollected(metric=) takes an object with collect, eval and reset, got {metric!r}.")
        self.metric = metric
        self.name_and_keys = type(metric).__name__  # its keys are not known

    def update(self, batch_dict: Mapping[str, Any]) -> None:
        """Take in one batch."""
        self.metric.collect(batch_dict)

    def compute(self, results: NDict | None = None) -> Any:
        """The value, or values by name, given the results of earlier metrics."""
        return self.metric.eval(NDict() if results is None else results)

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.metric.reset()


def registered(metric: Any) -> Any:
    """A `MetricCollected` of an object with FuseMedML's interface; anything else as it is."""
    # A module's `eval` means something else.
    if isinstance(metric, CollectingMetric) and not isinstance(metric, nn.Module):
        return MetricCollected(metric)
    return metric
