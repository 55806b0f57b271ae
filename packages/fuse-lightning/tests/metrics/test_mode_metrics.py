import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection

from fuse_lightning import MetricDefault


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


def test_losses_and_metrics_with_parameters_move_with_the_module(make_module):
    class Learned(nn.Module):
        reads, writes = ("model.y",), ()

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, batch_dict):
            return batch_dict["model.y"].mean() * self.scale

    module = make_module(losses={"learned": Learned()}).to(torch.float64)
    assert module.losses["learned"].scale.dtype == torch.float64
    assert "losses.learned.scale" in module.state_dict()
    assert any(parameter is module.losses["learned"].scale for parameter in module.parameters())


def test_a_metric_of_training_and_validation_counts_for_each(make_module, make_trainer, make_loader, mse_metric):
    shared, collected = mse_metric(), Collected()
    metrics = {"mse": shared, "mine": collected}
    trainer = make_trainer()
    module = make_module(
        train_metrics=metrics,
        validation_metrics=metrics,
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
    )
    trainer.fit(module, make_loader(10), make_loader(6, offset=5.0))
    logged = trainer.callback_metrics
    for mode in ("train", "validation"):
        assert logged[f"{mode}.metrics.mse"].item() == pytest.approx(logged[f"{mode}.losses.mse"].item())
    assert logged["train.losses.mse"] < logged["validation.losses.mse"]
    assert module.train_metrics["mse"] is shared
    assert module.train_metrics["mine"].metric is collected
    assert module.validation_metrics["mine"].metric is not collected


def test_a_metric_that_is_named_for_two_loaders_counts_for_each(make_module, make_trainer, make_loader, mse_metric):
    shared = mse_metric()
    module = make_module(validation_metrics={"near": {"mse": shared}, "far": {"mse": shared}})
    loaders = {"near": make_loader(10), "far": make_loader(6, offset=5.0)}
    trainer = make_trainer()
    trainer.validate(module, loaders, verbose=False)
    logged = trainer.callback_metrics
    for loader in loaders:
        metric, loss = (logged[f"validation.{loader}.{kind}.mse"].item() for kind in ("metrics", "losses"))
        assert metric == pytest.approx(loss)


def test_a_metric_under_two_names_counts_for_each(make_module, make_trainer, make_loader):
    shared = MeanSquaredError()
    metrics = {
        "zero": MetricDefault(pred="data.y", target="data.y", metric=shared),
        "mse": MetricDefault(pred="model.y", target="data.y", metric=shared),
    }
    (logged,) = make_trainer().validate(make_module(validation_metrics=metrics), make_loader(10), verbose=False)
    assert logged["validation.metrics.zero"] == 0
    assert logged["validation.metrics.mse"] == pytest.approx(logged["validation.losses.mse"])


@pytest.mark.parametrize("metric", [MeanSquaredError(), MetricCollection([MeanSquaredError()])])
def test_a_bare_metric_is_refused_with_what_to_wrap_it_in(make_module, metric):
    message = r"'\w+', a MeanSquaredError, takes predictions and targets, but is given the batch_dict\. Wrap it: Metric"
    with pytest.raises(TypeError, match=message):
        make_module(test_metrics={"mse": metric})


def test_a_module_that_is_no_metric_is_refused(make_module):
    message = r"train_metrics=\): 'head', a Linear, is not a metric: it has no update, compute, reset\."
    with pytest.raises(TypeError, match=message):
        make_module(train_metrics={"head": nn.Linear(1, 1)})


def test_a_metric_of_ones_own_may_take_the_batch_dict(make_module, make_trainer, make_loader):
    class Samples(Metric):
        def __init__(self):
            super().__init__()
            self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

        def update(self, batch_dict):
            self.count += len(batch_dict["data.sample_id"])

        def compute(self):
            return self.count

    (logged,) = make_trainer().test(make_module(test_metrics={"n": Samples()}), make_loader(6), verbose=False)
    assert logged["test.metrics.n"] == 6


def test_metrics_may_be_exchanged_after_construction(make_module, make_trainer, make_loader, mse_metric):
    module = make_module(train_metrics={"old": mse_metric()})
    module.train_metrics = nn.ModuleDict({"new": mse_metric()})
    trainer = make_trainer()
    trainer.fit(module, make_loader(8))
    assert {name for name in trainer.callback_metrics if "metrics" in name} == {"train.metrics.new"}


def test_a_network_that_metrics_share_is_not_copied(make_module):
    class Features(Metric):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def update(self, pred, target):
            pass

        def compute(self):
            return torch.zeros(())

    network = nn.Linear(3, 3)
    metrics = {name: MetricDefault(pred="x", target="y", metric=Features(network)) for name in "ab"}
    module = make_module(train_metrics=metrics)
    assert all(module.train_metrics[name].metric.network is network for name in "ab")


@pytest.mark.parametrize("options", [{"prefix": "v_"}, {"postfix": "_v"}, {"prefix": "v_", "compute_groups": False}])
def test_a_collection_for_several_loaders_and_training_counts_for_each(make_module, make_trainer, make_loader, options):
    collection = MetricCollection([MeanSquaredError(), MeanAbsoluteError()], **options)
    metrics = {"all": MetricDefault(pred="model.y", target="data.y", metric=collection)}
    module = make_module(
        train_metrics=metrics,
        validation_metrics={"near": metrics, "far": metrics},
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
    )
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, make_loader(10), {"near": make_loader(7), "far": make_loader(6, offset=5.0)})
    prefix, postfix = options.get("prefix", ""), options.get("postfix", "")
    for part in ("train", "validation.near", "validation.far"):
        metric = trainer.callback_metrics[f"{part}.metrics.all.{prefix}MeanSquaredError{postfix}"]
        assert metric.item() == pytest.approx(trainer.callback_metrics[f"{part}.losses.mse"].item())
