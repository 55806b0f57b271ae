"""Any torchmetrics metric of a prediction and a target, over a batch_dict."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchmetrics import Metric, MetricCollection

from fuse_core import NDict, read_key

from .metric_wrap_to_dict import check_metric


class MetricDefault(nn.Module):
    """Feeds a torchmetrics metric of a prediction and a target from a batch_dict; see also `MetricWrapToDict`.

    Args:
        pred: the key of the prediction.
        target: the key of the ground truth.
        metric: the metric; torchmetrics takes care of reducing it across processes.
        preprocess_func: is given a shallow copy of the batch_dict and returns the batch_dict that the metric sees.

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
        preprocess_func: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        check_metric("MetricDefault", metric, preprocess_func)
        self.pred = pred
        self.target = target
        self.metric = metric
        self.preprocess_func = preprocess_func
        self.reads = (pred, target)
        self.writes: tuple[str, ...] = ()

    def update(self, batch_dict: Mapping[str, Any]) -> None:
        """Take in one batch."""
        if self.preprocess_func is not None:
            batch_dict = self.preprocess_func(NDict(batch_dict))
        pred = read_key(batch_dict, self.pred, "MetricDefault")
        target = read_key(batch_dict, self.target, "MetricDefault")
        self.metric.update(pred, target)

    def compute(self) -> Any:
        """The metric over all batches since the last `reset`: a scalar tensor, or a dict of them for a collection."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.metric.reset()
