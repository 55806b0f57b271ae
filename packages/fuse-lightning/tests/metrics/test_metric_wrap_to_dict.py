import pytest
import torch
from torchmetrics import ClasswiseWrapper, MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.retrieval import RetrievalMRR

from fuse_core import NDict
from fuse_lightning import MetricWrapToDict


def test_arguments_of_any_name_are_read_from_the_batch():
    metric = MetricWrapToDict(
        metric=RetrievalMRR(),
        metric_arg_to_batch_key={"preds": "model.score", "target": "data.match", "indexes": "data.query"},
    )
    assert metric.reads == ("model.score", "data.match", "data.query")
    batch = NDict(
        {
            "model.score": torch.tensor([0.9, 0.2, 0.4]),
            "data.match": torch.tensor([False, False, True]),
            "data.query": torch.zeros(3, dtype=torch.int64),
        }
    )
    metric.update(batch)
    assert metric.compute() == 0.5
    metric.reset()
    metric.update(batch | {"data.match": torch.tensor([True, False, False])})
    assert metric.compute() == 1


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (
            BinaryAccuracy(),
            {"prds": "p", "target": "t"},
            r"takes no argument 'prds'\. Did you mean 'preds'\?",
        ),
        (BinaryAccuracy(), {"preds": "p"}, r"BinaryAccuracy needs the argument 'target'"),
        (
            MetricCollection([BinaryAccuracy()]),
            {"preds": "p", "target": "t", "x": "x"},
            r"takes no argument 'x'\. It takes",
        ),
    ],
)
def test_arguments_that_the_metric_lacks_or_needs_are_told_at_construction(metric, arguments, message):
    with pytest.raises(TypeError, match=message):
        MetricWrapToDict(metric=metric, metric_arg_to_batch_key=arguments)


def test_metrics_that_pass_their_arguments_on_take_any():
    metric = MetricWrapToDict(
        metric=ClasswiseWrapper(MulticlassAccuracy(2, average=None)),
        metric_arg_to_batch_key={"preds": "p", "target": "t"},
    )
    metric.update({"p": torch.tensor([0, 1]), "t": torch.tensor([0, 0])})
    assert metric.compute()["multiclassaccuracy_0"] == 0.5
