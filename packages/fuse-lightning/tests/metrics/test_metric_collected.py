import pytest
import pytorch_lightning as pl
import torch

from fuse_core import NDict
from fuse_lightning import (
    MetricCollected,
    MetricError,
    epoch_end_compute_and_log_metrics,
    step_losses,
    step_metrics,
)


class Collected:
    """A metric with FuseMedML's interface."""

    def __init__(self):
        self.reset()

    def collect(self, batch):
        self.ids += batch["data.sample_id"]

    def eval(self, results=None):
        mse = float(results["metrics.mse"])
        return {"samples": len(self.ids), "twice": {"mse": 2 * mse}, "plot": "not a number", "none": None}

    def reset(self):
        self.ids = []


def test_collecting_metrics_are_logged_and_given_the_results_before_them(
    make_module, make_trainer, make_loader, mse_metric
):
    module = make_module(validation_metrics={"mse": mse_metric(), "mine": Collected()})
    assert isinstance(module.validation_metrics["mine"], MetricCollected)
    (logged,) = make_trainer().validate(module, make_loader(10), verbose=False)
    metrics = {name: value for name, value in logged.items() if "metrics" in name}
    assert metrics == {
        "validation.metrics.mse": pytest.approx(logged["validation.losses.mse"]),
        "validation.metrics.mine.samples": 10,
        "validation.metrics.mine.twice.mse": pytest.approx(2 * logged["validation.losses.mse"]),
    }
    assert module.validation_metrics["mine"].metric.ids == []


class Seen(Collected):
    """Keeps the batches that it is given."""

    def collect(self, batch):
        self.batches.append(batch)

    def eval(self, results=None):
        return len(self.batches)

    def reset(self):
        self.batches = []


def test_collecting_metrics_get_losses_as_floats_and_nothing_else_of_step_losses(mse_loss):
    batch = NDict({"data.sample_id": [0, 1], "data.y": torch.zeros(2), "model.y": torch.ones(2)})
    mse_loss.terms = {"half": torch.tensor(0.5)}
    metrics = {"seen": Seen()}
    step_losses({"mse": mse_loss}, batch)
    step_metrics(metrics, batch)
    (seen,) = metrics["seen"].batches
    assert {key: value for key, value in seen.items() if not isinstance(value, torch.Tensor)} == {
        "data.sample_id": [0, 1],
        "losses.mse": 1.0,
        "losses.total_loss": 1.0,
    }
    assert set(seen) == {"data.sample_id", "data.y", "model.y", "losses.mse", "losses.total_loss"}
    assert all(isinstance(value, float) for value in seen["losses"].values())
    assert isinstance(batch["losses.mse"], torch.Tensor)


def test_the_step_functions_take_collecting_metrics_as_they_are(make_module, make_trainer, make_loader):
    seen = Seen()

    class Module(pl.LightningModule):
        def validation_step(self, batch_dict, batch_idx):
            step_metrics({"seen": seen}, batch_dict)

        def on_validation_epoch_end(self):
            epoch_end_compute_and_log_metrics(self, "validation", {"seen": seen})

    (logged,) = make_trainer().validate(Module(), make_loader(8), verbose=False)
    assert logged == {"validation.metrics.seen": 2}
    assert seen.batches == []


def test_an_object_without_the_interface_is_no_metric():
    with pytest.raises(TypeError, match="takes an object with collect, eval and reset, got 1"):
        MetricCollected(1)


def test_a_collecting_metric_that_fails_is_named_too():
    with pytest.raises(MetricError, match="The metric 'mine', Collected, failed: NestedKeyError"):
        step_metrics({"mine": MetricCollected(Collected())}, NDict({"x": 1}))
