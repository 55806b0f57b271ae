import pytest
import torch
from torchmetrics import MeanSquaredError
from torchmetrics.classification import BinaryAccuracy

from fuse_core import NDict, NestedKeyError
from fuse_lightning import MetricDefault, MetricWrapToDict


def test_wrapped_metrics_see_the_preprocessed_batch():
    metric = MetricWrapToDict(
        metric=BinaryAccuracy(),
        metric_arg_to_batch_key={"preds": "p", "target": "t"},
        preprocess_func=lambda batch_dict: batch_dict.indices([0]),
    )
    metric.update({"p": torch.tensor([1.0, 1.0]), "t": torch.tensor([1, 0])})
    assert metric.compute() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": max},
            r"MetricWrapToDict\(metric=\) takes a torchmetrics Metric or MetricCollection, got <built-in",
        ),
        ({"metric_arg_to_batch_key": ["p"]}, r"takes a mapping of the metric's argument names to keys"),
        ({"metric_arg_to_batch_key": {}}, r"takes a mapping of the metric's argument names to keys"),
        ({"preprocess_func": "f"}, r"preprocess_func=\) takes a function, got 'f'"),
    ],
)
def test_bad_arguments_fail_at_construction(options, message):
    defaults = {"metric": BinaryAccuracy(), "metric_arg_to_batch_key": {"preds": "p", "target": "t"}}
    with pytest.raises(TypeError, match=message):
        MetricWrapToDict(**defaults | options)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (
            MetricDefault(pred="model.y", target="data.label", metric=MeanSquaredError()),
            r"MetricDefault\(pred='model.y', target='data.label', metric=MeanSquaredError\)",
        ),
        (
            MetricWrapToDict(
                metric=MeanSquaredError(), metric_arg_to_batch_key={"preds": "model.y", "target": "data.t"}
            ),
            r"MetricWrapToDict\(preds='model.y', target='data.t', metric=MeanSquaredError\)",
        ),
    ],
)
def test_a_missing_key_is_told_with_the_metrics_class_and_keys(metric, name):
    with pytest.raises(NestedKeyError, match=f"{name} reads 'data.(label|t)', which this batch_dict does not hold"):
        metric.update(NDict({"model.y": torch.zeros(1), "data.y": torch.zeros(1)}))
