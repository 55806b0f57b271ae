import pytest
import torch
from torch import nn
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import NDict, NestedKeyError
from fuse_lightning import (
    MetricDefault,
    MetricError,
    step_extract_predictions,
    step_losses,
    step_metrics,
)


class Mean(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, batch_dict):
        return batch_dict["model.logits.cls"].mean() * self.factor


@pytest.fixture
def batch():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    return NDict({"data": {"sample_id": ["a", "b"], "label": torch.tensor([0, 0])}, "model.logits.cls": logits})


def test_losses_are_written_detached_and_their_sum_is_returned(batch):
    total = step_losses({"one": Mean(1), "four": Mean(4)}, batch)
    assert total.item() == 5 * 0.75
    assert batch["losses"] == {"one": 0.75, "four": 3.0, "total_loss": 3.75}
    assert not any(value.requires_grad for value in batch["losses"].values())
    total.backward()
    assert batch["model.logits.cls"].grad.tolist() == [[1.25, 1.25], [1.25, 1.25]]


def test_a_loss_must_be_a_scalar(batch):
    with pytest.raises(ValueError, match=r"scalar tensors, but 'unreduced' returned shape \(2, 2\)\. Reduce it"):
        step_losses({"unreduced": lambda batch_dict: batch_dict["model.logits.cls"]}, batch)


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_loss_must_be_a_tensor(batch, value):
    with pytest.raises(TypeError, match=rf"scalar tensors, but 'odd' \(function\) returned {value}\. Return the loss"):
        step_losses({"odd": lambda batch_dict: value}, batch)


def test_there_must_be_a_loss(batch):
    with pytest.raises(ValueError, match="needs at least one loss"):
        step_losses({}, batch)


def test_metrics_take_in_the_batch(batch):
    accuracy = MetricDefault(
        pred="model.logits.cls", target="data.label", metric=MulticlassAccuracy(2, average="micro")
    )
    step_metrics({"accuracy": accuracy}, batch)
    assert accuracy.compute().item() == 0.5
    assert accuracy.reads == ("model.logits.cls", "data.label")


def test_a_metrics_preprocessing_leaves_the_batch_alone(batch):
    def first(batch_dict):
        batch_dict["data.new"] = 1
        return batch_dict.indices([0])

    accuracy = MetricDefault(
        pred="model.logits.cls",
        target="data.label",
        metric=MulticlassAccuracy(2, average="micro"),
        preprocess_func=first,
    )
    accuracy.update(batch)
    assert accuracy.compute().item() == 1.0
    assert "data.new" not in batch


def test_a_metric_must_be_from_torchmetrics():
    with pytest.raises(TypeError, match="takes a torchmetrics Metric or MetricCollection, got <built-in function max>"):
        MetricDefault(pred="p", target="t", metric=max)


def test_predictions_carry_the_sample_ids(batch):
    predictions = step_extract_predictions(["model.logits.cls"], batch)
    assert list(predictions) == ["data.sample_id", "model.logits.cls"]
    with pytest.raises(NestedKeyError, match=r"step_extract_predictions reads 'model\.logit'.*'model\.logits'"):
        step_extract_predictions(["model.logit"], batch)


def test_a_collection_is_logged_by_its_names(make_module, make_trainer, make_loader):
    metrics = MetricDefault(pred="model.y", target="data.y", metric=MetricCollection({"mse": MeanSquaredError()}))
    module = make_module(validation_metrics={"all": metrics})
    (logged,) = make_trainer().validate(module, make_loader(4), verbose=False)
    assert "validation.metrics.all.mse" in logged


class Failing(Metric):
    """Fails when it is told to."""

    def __init__(self, when):
        super().__init__()
        self.when = when
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, pred, target):
        if self.when == "update":
            raise ZeroDivisionError("no samples of class 3")

    def compute(self):
        if self.when == "compute":
            raise ZeroDivisionError("no samples of class 3")
        return torch.zeros(2) if self.when == "vector" else self.count


@pytest.mark.parametrize("when", ["update", "compute"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_failing_metric_fails_the_run_with_its_name(make_module, make_trainer, make_loader, when):
    failing = MetricDefault(pred="model.y", target="data.y", metric=Failing(when))
    described = r"MetricDefault\(pred='model.y', target='data.y', metric=Failing\)"
    message = rf"The metric 'auc', {described}, failed: ZeroDivisionError: no samples of class 3"
    with pytest.raises(MetricError, match=message):
        make_trainer().validate(make_module(validation_metrics={"auc": failing}), make_loader(4), verbose=False)


def test_what_is_no_number_cannot_be_logged(make_module, make_trainer, make_loader):
    metric = MetricDefault(pred="model.y", target="data.y", metric=Failing("vector"))
    with pytest.raises(ValueError, match=r"logged as one number, but 'f1' gave a tensor of shape \(2,\)"):
        make_trainer().validate(make_module(validation_metrics={"f1": metric}), make_loader(4), verbose=False)
