"""A torchmetrics metric of a prediction and a target, over a batch_dict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torchmetrics import Metric, MetricCollection

from fuse_core import NDict, read_key

Preprocess = Callable[[Any], Mapping[str, Any]]


class BatchMetric(nn.Module):
    """A torchmetrics metric that reads its arguments from a batch_dict: the base of the two classes for users.

    Args:
        metric: the metric; torchmetrics reduces it across processes.
        keys: the argument names of the user's class with their keys, for error messages.
        preprocess_func: see `MetricDefault`.
        class_names: see `MetricDefault`.
    """

    def __init__(
        self,
        metric: Metric | MetricCollection,
        keys: Mapping[str, str],
        preprocess_func: Preprocess | None,
        class_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if not isinstance(metric, Metric | MetricCollection):
            raise TypeError(
                f"{owner}(metric=) takes a torchmetrics Metric or MetricCollection, got {metric!r}. "
                f"For another function, subclass torchmetrics.Metric."
            )
        if preprocess_func is not None and not callable(preprocess_func):
            raise TypeError(f"{owner}(preprocess_func=) takes a function, got {preprocess_func!r}.")
        self.metric = metric
        self.has_samples = False  # since the last reset
        self.preprocess_func = preprocess_func
        if isinstance(class_names, str):
            raise TypeError(f"{owner}(class_names=) takes a sequence of names, got the string {class_names!r}.")
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.reads = tuple(dict.fromkeys(keys.values()))
        self.writes: tuple[str, ...] = ()
        arguments = ", ".join(f"{argument}={key!r}" for argument, key in keys.items())
        self.name_and_keys = f"{owner}({arguments}, metric={type(metric).__name__})"

    def arguments(self, batch_dict: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and named arguments of the metric's `update`."""
        raise NotImplementedError

    def update(self, batch_dict: Mapping[str, Any]) -> None:
        """Update the metric with one batch. A batch without samples, such as one that was filtered, is left out."""
        if self.preprocess_func is not None:
            batch_dict = self.preprocess_func(NDict(batch_dict))
        positional, named = self.arguments(batch_dict)
        values = [*positional, *named.values()]
        sizes = [len(one) for one in values if isinstance(one, list) or getattr(one, "ndim", 0) > 0]
        if any(sizes) or not sizes:
            self.metric.update(*positional, **named)
            self.has_samples = True

    def compute(self) -> Any:
        """The metric over all batches since the last `reset`: a scalar tensor, or a dict of them for a collection."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.metric.reset()
        self.has_samples = False


class MetricDefault(BatchMetric):
    """Feeds a torchmetrics metric of a prediction and a target from a batch_dict; see also `MetricWrapToDict`.

    Args:
        pred: the key of the prediction.
        target: the key of the ground truth.
        metric: the metric; torchmetrics reduces it across processes.
        preprocess_func: is given a shallow copy of the batch_dict and returns the batch_dict that the metric sees.
        class_names: names of the classes, for a metric with a value for each class (`average=None`, or a confusion
            matrix, of which the diagonal is logged); None takes `0`, `1` and so on.

    Raises:
        TypeError: an argument of the wrong type.
        NestedKeyError: the batch_dict lacks a key.

    Example:
        >>> import torch
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> accuracy = MetricDefault(
        ...     pred="model.logits.cls", target="data.label", metric=MulticlassAccuracy(num_classes=2, average="micro")
        ... )
        >>> accuracy.update({"model.logits.cls": torch.tensor([[2.0, 1.0]]), "data.label": torch.tensor([0])})
        >>> accuracy.compute()
        tensor(1.)
    """

    def __init__(
        self,
        *,
        pred: str,
        target: str,
        metric: Metric | MetricCollection,
        preprocess_func: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(metric, {"pred": pred, "target": target}, preprocess_func, class_names)
        self.pred = pred
        self.target = target

    def arguments(self, batch_dict: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The prediction and the target."""
        return [read_key(batch_dict, key, self.name_and_keys) for key in (self.pred, self.target)], {}
