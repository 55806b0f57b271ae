"""A torchmetrics metric with arguments of any names, over a batch_dict."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics import Metric, MetricCollection

from fuse_core import did_you_mean, read_key

from .metric_default import BatchMetric, Preprocess


class MetricWrapToDict(BatchMetric):
    """Feeds a torchmetrics metric from a batch_dict, its arguments by name.

    Args:
        metric: the metric; torchmetrics reduces it across processes.
        metric_arg_to_batch_key: the key that each argument of `metric.update` is read from.
        preprocess_func: is given a shallow copy of the batch_dict and returns the batch_dict that the metric sees.
        class_names: see `MetricDefault`.

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
        preprocess_func: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(metric_arg_to_batch_key, Mapping) or not metric_arg_to_batch_key:
            raise TypeError(
                f"MetricWrapToDict(metric_arg_to_batch_key=) takes a mapping of the metric's argument names to keys, "
                f"such as {{'preds': 'model.output.cls', 'target': 'data.label'}}; got {metric_arg_to_batch_key!r}."
            )
        super().__init__(metric, metric_arg_to_batch_key, preprocess_func, class_names)
        _check_arguments(metric, list(metric_arg_to_batch_key))
        self.metric_arg_to_batch_key = dict(metric_arg_to_batch_key)

    def arguments(self, batch_dict: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values that the metric takes, by the names of its arguments."""
        keys = self.metric_arg_to_batch_key
        return [], {name: read_key(batch_dict, key, self.name_and_keys) for name, key in keys.items()}


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
            hint = did_you_mean(name, known) or f" It takes: {', '.join(known)}."
            raise TypeError(f"MetricWrapToDict(metric_arg_to_batch_key=): {owner} takes no argument {name!r}.{hint}")
    for one in named:
        if one.default is one.empty and one.name not in names:
            raise TypeError(
                f"MetricWrapToDict(metric_arg_to_batch_key=): {owner} needs the argument {one.name!r}; got {names}. "
                f"Give the key that it is read from."
            )
