"""Which metrics of torchmetrics are given logits, though they expect probabilities."""

from collections.abc import Iterator
from typing import Any

from torchmetrics import KLDivergence, Metric
from torchmetrics import classification as of_classes

from fuse_core import logits_key, output_key

from ..metrics.metric_default import BatchMetric

BY_RANGE = (
    of_classes.BinaryStatScores,
    of_classes.BinaryConfusionMatrix,
    of_classes.BinaryPrecisionRecallCurve,
    of_classes.BinaryCalibrationError,
    of_classes.MulticlassPrecisionRecallCurve,
    of_classes.MulticlassCalibrationError,
    of_classes.MultilabelStatScores,
    of_classes.MultilabelConfusionMatrix,
    of_classes.MultilabelPrecisionRecallCurve,
)
"""Base classes of metrics that take a batch with scores outside of 0 to 1 for logits, and any other for probabilities.

Multiclass metrics of the highest score, such as accuracy, work with both.
"""


def wrong_inputs(name: str, component: Any, _: Any = None) -> Iterator[str]:
    """A sentence for each metric in a component that expects probabilities and reads logits."""
    if not isinstance(component, BatchMetric) or component.preprocess_func is not None:
        return
    logits = [key for key in component.reads if key.startswith(logits_key(""))]
    for metric in component.modules():
        if logits and isinstance(metric, Metric) and isinstance(metric, (*BY_RANGE, KLDivergence)):
            kind, probabilities = type(metric).__name__, output_key(logits[0].removeprefix(logits_key("")))
            rule = "expects probabilities"
            if isinstance(metric, BY_RANGE):
                rule = "expects probabilities: it converts logits only if some of a batch are outside of 0 to 1"
            yield f"{name}: {kind} {rule}. It reads {logits[0]!r}. Give it probabilities, such as {probabilities!r}."
