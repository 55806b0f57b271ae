import pytest
import torch
from torch import nn
from torchmetrics import ClasswiseWrapper, MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.retrieval import RetrievalMRR

from fuse_core import NDict, NestedKeyError
from fuse_lightning import MetricCollected, MetricDefault, MetricError, MetricWrapToDict, step_metrics


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


def test_wrapped_metrics_see_the_preprocessed_batch():
    metric = MetricWrapToDict(
        metric=BinaryAccuracy(),
        metric_arg_to_batch_key={"preds": "p", "target": "t"},
        preprocess_func=lambda batch_dict: batch_dict.indices([0]),
    )
    metric.update({"p": torch.tensor([1.0, 1.0]), "t": torch.tensor([1, 0])})
    assert metric.compute() == 1


def test_a_collection_is_logged_by_its_names(make_module, make_trainer, make_loader):
    metrics = MetricDefault(pred="model.y", target="data.y", metric=MetricCollection({"mse": MeanSquaredError()}))
    module = make_module(validation_metrics={"all": metrics})
    (logged,) = make_trainer().validate(module, make_loader(4), verbose=False)
    assert "validation.metrics.all.mse" in logged


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


def test_an_object_without_the_interface_is_no_metric():
    with pytest.raises(TypeError, match="takes an object with collect, eval and reset, got 1"):
        MetricCollected(1)


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


def test_a_collecting_metric_that_fails_is_named_too():
    with pytest.raises(MetricError, match="The metric 'mine', Collected, failed: NestedKeyError"):
        step_metrics({"mine": MetricCollected(Collected())}, NDict({"x": 1}))


def test_what_is_no_number_cannot_be_logged(make_module, make_trainer, make_loader):
    metric = MetricDefault(pred="model.y", target="data.y", metric=Failing("vector"))
    with pytest.raises(ValueError, match=r"logged as one number, but 'f1' gave a tensor of shape \(2,\)"):
        make_trainer().validate(make_module(validation_metrics={"f1": metric}), make_loader(4), verbose=False)


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
    message = r"train_metrics=\): 'head', a Linear, is no metric: it has no update, compute, reset\."
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
