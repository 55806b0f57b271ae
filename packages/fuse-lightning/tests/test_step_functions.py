import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import NDict, NestedKeyError
from fuse_lightning import MetricDefault, step_extract_predictions, step_losses, step_metrics


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
