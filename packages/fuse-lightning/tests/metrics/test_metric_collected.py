import pytest

from fuse_core import NDict
from fuse_lightning import MetricCollected, MetricError, step_metrics


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


def test_an_object_without_the_interface_is_no_metric():
    with pytest.raises(TypeError, match="takes an object with collect, eval and reset, got 1"):
        MetricCollected(1)


def test_a_collecting_metric_that_fails_is_named_too():
    with pytest.raises(MetricError, match="The metric 'mine', Collected, failed: NestedKeyError"):
        step_metrics({"mine": MetricCollected(Collected())}, NDict({"x": 1}))
