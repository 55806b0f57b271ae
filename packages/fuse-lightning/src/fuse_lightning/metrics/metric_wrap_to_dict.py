"""Any torchmetrics metric, whatever its arguments are called, over a batch_dict."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchmetrics import Metric, MetricCollection

from fuse_core import NDict, nearest_keys, read_key


class MetricWrapToDict(nn.Module):
    """Feeds a torchmetrics metric from a batch_dict, its arguments by name.

    Args:
        metric: the metric; torchmetrics takes care of reducing it across processes.
        metric_arg_to_batch_key: the key that each argument of `metric.update` is read from.
        preprocess_func: is given a shallow copy of the batch_dict and returns the batch_dict that the metric sees.

    Raises:
        TypeError: an argument of the wrong type, or `metric.update` takes other arguments.
        NestedKeyError: the batch_dict lacks a key.

    Example:
        >>> import torch
        >>> from torchmetrics.retrieval import RetrievalMRR
        >>> rank = MetricWrapToDict(
        ...     metric=RetrievalMRR(),
        ...     metric_arg_to_batch_key={"preds": "model.score", "target": "data.match", "indexes": "data.query"},
        ... )
        >>> rank.update(
        ...     {
        ...         "model.score": torch.tensor([0.9, 0.2, 0.4]),
        ...         "data.match": torch.tensor([False, False, True]),
        ...         "data.query": torch.tensor([0, 0, 0]),
        ...     }
        ... )
        >>> rank.compute()
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        metric: Metric | MetricCollection,
        metric_arg_to_batch_key: Mapping[str, str],
        preprocess_func: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        check_metric(type(self).__name__, metric, preprocess_func)
        if not isinstance(metric_arg_to_batch_key, Mapping) or not metric_arg_to_batch_key:
            raise TypeError(
                f"MetricWrapToDict(metric_arg_to_batch_key=) takes a mapping of the metric's argument names to keys, "
                f"such as {{'preds': 'model.output.cls', 'target': 'data.label'}}; got {metric_arg_to_batch_key!r}."
            )
        _check_arguments(metric, list(metric_arg_to_batch_key))
        self.metric = metric
        self.metric_arg_to_batch_key = dict(metric_arg_to_batch_key)
        self.preprocess_func = preprocess_func
        self.reads = tuple(dict.fromkeys(self.metric_arg_to_batch_key.values()))
        self.writes: tuple[str, ...] = ()

    def update(self, batch_dict: Mapping[str, Any]) -> None:
        """Take in one batch."""
        if self.preprocess_func is not None:
            batch_dict = self.preprocess_func(NDict(batch_dict))
        reader = type(self).__name__
        arguments = {name: read_key(batch_dict, key, reader) for name, key in self.metric_arg_to_batch_key.items()}
        self.metric.update(**arguments)

    def compute(self) -> Any:
        """The metric over all batches since the last `reset`: a scalar tensor, or a dict of them for a collection."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.metric.reset()


def check_metric(owner: str, metric: Any, preprocess_func: Any) -> None:
    """Raise TypeError unless these are a metric, and a function or None."""
    if not isinstance(metric, Metric | MetricCollection):
        raise TypeError(
            f"{owner}(metric=) takes a torchmetrics Metric or MetricCollection, got {metric!r}. "
            f"For another function, subclass torchmetrics.Metric."
        )
    if preprocess_func is not None and not callable(preprocess_func):
        raise TypeError(f"{owner}(preprocess_func=) takes a function, got {preprocess_func!r}.")


def _check_arguments(metric: Metric | MetricCollection, names: list[str]) -> None:
    """Raise TypeError unless the metric, or one of a collection, takes each argument, and is given those it needs."""
    metrics = list(metric.values()) if isinstance(metric, MetricCollection) else [metric]
    parameters = [one for each in metrics for one in inspect.signature(each.update).parameters.values()]
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    known = list(dict.fromkeys(one.name for one in named))
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters)
    owner = type(metric).__name__
    for name in names:
        if name not in known and not takes_any:
            nearest = nearest_keys(name, known)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(known)}."
            raise TypeError(f"MetricWrapToDict(metric_arg_to_batch_key=): {owner} takes no argument {name!r}. {hint}")
    for one in named:
        if one.default is one.empty and one.name not in names:
            raise TypeError(
                f"MetricWrapToDict(metric_arg_to_batch_key=): {owner} needs the argument {one.name!r}; got {names}. "
                f"Give the key that it is read from."
            )
