"""The two interfaces of metrics, torchmetrics' and FuseMedML's, and a wrapper that turns the second into the first."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fuse_core import LOSSES, NDict

from ..losses.epoch_losses import COUNTED, TERMS


@runtime_checkable
class Metric(Protocol):
    """A metric with torchmetrics' methods."""

    def update(self, batch: Any, /) -> Any:
        """Take in one batch."""

    def compute(self) -> Any:
        """The value."""

    def reset(self) -> Any:
        """Forget everything."""


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
        """Take in one batch. The object gets the losses as floats, as from FuseMedML."""
        self.metric.collect(_with_plain_losses(batch_dict))

    def compute(self, results: NDict | None = None) -> Any:
        """The value, or values by name, given the results of earlier metrics."""
        return self.metric.eval(NDict() if results is None else results)

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.metric.reset()


def registered(metric: Any) -> Any:
    """A `MetricCollected` of an object with FuseMedML's interface; anything else as it is."""
    # A module's `eval` means something else.
    if not isinstance(metric, nn.Module) and isinstance(metric, CollectingMetric):
        return MetricCollected(metric)
    return metric


def _with_plain_losses(batch_dict: Mapping[str, Any]) -> NDict:
    """A copy in which each value has an entry for each sample, or is the same for all.

    Scalar tensors under `losses` become floats, read from the device at once, and what else `step_losses` wrote is left
    out. A metric that takes the batch apart into samples could not index such tensors.
    """
    copied = NDict(batch_dict)
    losses: dict[str, Tensor] = {}
    for key, value in list(copied.items()):
        branch = key.partition(".")[0]
        if branch in (COUNTED, TERMS):
            del copied[key]
        elif branch == LOSSES and isinstance(value, Tensor) and value.ndim == 0:
            losses[key] = value.detach()
    if losses:
        device = next(iter(losses.values())).device
        values = torch.stack([value.to(device) for value in losses.values()])
        copied.update(zip(losses, values.tolist(), strict=True))
    return copied
