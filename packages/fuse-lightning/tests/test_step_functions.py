import csv
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)
from torchmetrics.wrappers import Running

from fuse_core import NDict, NestedKeyError
from fuse_lightning import (
    MetricDefault,
    MetricError,
    epoch_end_compute_and_log_losses,
    step_extract_predictions,
    step_losses,
    step_metrics,
)
from fuse_lightning.step_functions import log_reduced


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


class Counting(nn.Module):
    """A mean over the samples with a label, which is NaN where there is none."""

    reads = ("model.logits.cls", "data.label")

    def forward(self, batch_dict):
        labelled = batch_dict["data.label"] >= 0
        self.counted = labelled.sum()
        self.terms = {"half": batch_dict["model.logits.cls"].detach().mean() / 2}
        return nn.functional.cross_entropy(batch_dict["model.logits.cls"], batch_dict["data.label"], ignore_index=-1)


def test_what_a_loss_counted_and_its_terms_are_written(batch):
    batch["data.label"] = torch.tensor([0, -1])
    step_losses({"cls": Counting(), "mean": Mean(1)}, batch)
    assert batch["counted"] == {"cls": 1, "mean": 2}
    assert batch["loss_terms.cls.half"] == 0.75 / 2


def test_a_loss_that_counted_nothing_is_not_in_the_sum(batch):
    batch["data.label"] = torch.tensor([-1, -1])
    total = step_losses({"cls": Counting(), "mean": Mean(1)}, batch)
    assert batch["losses.cls"].isnan()
    assert total.item() == batch["losses.total_loss"] == 0.75
    total.backward()
    assert batch["model.logits.cls"].grad.tolist() == [[0.25, 0.25], [0.25, 0.25]]


class DividesByItsCount(nn.Module):
    """A mean whose value and gradient are 0 / 0 if no sample has a label."""

    reads = None

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, batch_dict):
        labelled = batch_dict["data.label"] >= 0
        self.counted = self.kind(labelled.sum())
        return (batch_dict["model.logits.cls"].sum(1) * labelled).sum() / labelled.sum()


@pytest.mark.parametrize("kind", [int, torch.as_tensor])
@pytest.mark.parametrize("reads", [("model.logits.cls", "data.label"), None])
def test_a_loss_that_divides_by_nothing_adds_nothing_to_the_gradient(batch, kind, reads):
    loss = DividesByItsCount(kind)
    loss.reads = reads
    logits = batch["model.logits.cls"]
    for labels, gradient in (([-1, -1], 0.25), ([0, -1], 1.25)):
        batch["data.label"] = torch.tensor(labels)
        step_losses({"cls": loss, "mean": Mean(1)}, batch).backward()
        assert batch["model.logits.cls"] is logits
        assert logits.grad[0].tolist() == [gradient, gradient]
        logits.grad = None


class NoSamples(nn.Module):
    counted = 0

    def forward(self, batch_dict):
        return batch_dict["model.logits.cls"][:0].mean()


def test_a_sum_in_which_nothing_counted_has_a_gradient_of_zero(batch):
    step_losses({"empty": NoSamples()}, batch).backward()
    assert batch["model.logits.cls"].grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


class Masked(nn.Module):
    """A mean over a mask, with a weight of its own and what else the formula takes."""

    def __init__(self, reads=(), read=lambda batch_dict: batch_dict["model.x"], kind=torch.as_tensor):
        super().__init__()
        self.reads, self.read, self.kind = reads, read, kind
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, batch_dict):
        mask = batch_dict["data.mask"]
        self.counted = self.kind(mask.sum())
        return (self.read(batch_dict) * self.weight * mask).sum() / mask.sum()


@pytest.mark.parametrize("kind", [int, torch.as_tensor])
@pytest.mark.parametrize(
    ("value", "options"),
    [
        (lambda x: x * 2, {}),
        (lambda x: x * 2, {"reads": ("model",)}),
        (lambda x: [x[:1] * 2, x[1:] * 2], {"read": lambda batch_dict: torch.cat(batch_dict["model.x"])}),
    ],
    ids=["tensor", "branch", "list"],
)
def test_whatever_a_loss_reads_gets_no_gradient_if_nothing_counted(value, options, kind):
    x = torch.ones(3, requires_grad=True)
    loss = Masked(kind=kind, **options)
    step_losses({"masked": loss}, NDict({"model.x": value(x), "data.mask": torch.zeros(3)})).backward()
    assert x.grad.tolist() == loss.weight.grad.tolist() == [0, 0, 0]


def test_a_gradient_of_zero_does_not_depend_on_the_step_before():
    loss = Masked(kind=int)
    for kind in (int, torch.as_tensor):
        loss.kind = kind
        x = torch.ones(3, requires_grad=True)
        step_losses({"masked": loss}, NDict({"model.x": x * 2, "data.mask": torch.zeros(3)})).backward()
        assert x.grad.tolist() == [0, 0, 0]


def test_a_loss_without_a_graph_that_counted_0_has_a_gradient_for_its_own_parameters():
    class Early(Masked):
        counted = 0

        def forward(self, batch_dict):
            return torch.zeros(())

    loss = Early()
    step_losses({"early": loss}, NDict({"model.x": torch.ones(3)})).backward()
    assert loss.weight.grad.tolist() == [0, 0, 0]  # DistributedDataParallel waits for each parameter


class Residual(nn.Module):
    """The loss of a network that solves the differential equation du/dx = 1, where the mask says."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def forward(self, batch_dict):
        x, mask = batch_dict["data.x"], batch_dict["data.mask"]
        (slope,) = torch.autograd.grad(batch_dict["model.u"].sum(), x, create_graph=True)
        if self.counts:
            self.counted = mask.sum()
        return ((slope - 1) ** 2 * mask).sum() / mask.sum()


@pytest.mark.parametrize("counts", [True, False])
def test_a_loss_may_differentiate_by_what_it_reads(counts):
    network = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.rand(4, 1, requires_grad=True)

    def gradients(mask, call):
        network.zero_grad()
        call(NDict({"data.x": x, "data.mask": mask, "model.u": network(x)})).backward()
        return network[0].weight.grad

    loss = Residual(counts)
    expected = gradients(torch.ones(4, 1), loss)
    torch.testing.assert_close(gradients(torch.ones(4, 1), lambda batch: step_losses({"u": loss}, batch)), expected)
    assert expected.count_nonzero() == 4
    if counts:
        assert not gradients(torch.zeros(4, 1), lambda batch: step_losses({"u": loss}, batch)).any()


def test_a_loss_may_write_to_the_batch():
    def normalized(batch_dict):
        batch_dict["model.x"] = nn.functional.normalize(batch_dict["model.x"], dim=0)
        return batch_dict["model.x"].sum()

    batch = NDict({"model.x": torch.tensor([3.0, 4.0], requires_grad=True)})
    step_losses({"normalized": normalized}, batch)
    assert batch["model.x"].tolist() == pytest.approx([0.6, 0.8])


def test_a_loss_with_sparse_gradients_may_count_nothing():
    centers = nn.Embedding(2, 3, sparse=True)
    loss = Masked(read=lambda batch_dict: centers(batch_dict["data.label"]))
    step_losses({"center": loss}, NDict({"data.label": torch.tensor([0]), "data.mask": torch.zeros(3)})).backward()
    assert centers.weight.grad.is_sparse
    assert loss.weight.grad.tolist() == [0, 0, 0]


def test_counts_on_a_device_are_not_read():
    x = torch.ones(3, device="meta", requires_grad=True)  # a tensor without values: reading them raises
    batch = NDict({"model.x": x * 2, "data.mask": torch.ones(3, device="meta")})
    step_losses({"masked": Masked().to("meta")}, batch).backward()
    assert x.grad.shape == (3,)


@pytest.mark.parametrize(("processes", "device"), [(1, "cpu"), (2, "meta")])
def test_tensors_are_reduced_on_the_device_of_the_module(processes, device):
    logged = {}
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=processes),
        device=torch.device("meta"),
        log=lambda name, value, **_: logged.update({name: value}),
    )
    log_reduced(module, "auroc", torch.zeros(()))
    log_reduced(module, "loss", 0.5)
    assert (logged["auroc"].device.type, logged["loss"]) == (device, 0.5)


def test_without_sample_ids_samples_are_the_size_that_the_reads_share():
    values = {"data.image_sizes": torch.zeros(3, 2), "data.weights": torch.ones(5), "data.label": torch.zeros(4)}
    batch = NDict(values | {"model.logits.cls": torch.zeros(4, 5)})
    loss = Mean(1)
    loss.reads = ("model.logits.cls", "data.label", "data.weights")
    step_losses({"cls": loss}, batch)
    assert batch["counted.cls"] == 4


def test_a_loss_must_be_a_scalar(batch):
    with pytest.raises(ValueError, match=r"scalar tensors, but 'unreduced' returned shape \(2, 2\)\. Reduce it"):
        step_losses({"unreduced": lambda batch_dict: batch_dict["model.logits.cls"]}, batch)


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_loss_must_be_a_tensor(batch, value):
    with pytest.raises(TypeError, match=rf"scalar tensors, but 'odd' \(function\) returned {value}\. Return the loss"):
        step_losses({"odd": lambda batch_dict: value}, batch)


class OfAList(pl.LightningModule):
    """Logs a list of the losses of batches at the end of validation."""

    def __init__(self, batch_losses):
        super().__init__()
        self.batch_losses = batch_losses

    def validation_step(self, batch_dict, batch_idx): ...

    def on_validation_epoch_end(self):
        epoch_end_compute_and_log_losses(self, "validation", self.batch_losses)


def test_the_losses_of_an_epoch_may_be_a_list(make_trainer, make_loader):
    batch_losses = [{"a": 1.0, "total_loss": 1.0}, NDict({"a": torch.tensor(4.0), "b": None, "total_loss": 8.0})]
    (logged,) = make_trainer().validate(OfAList(batch_losses), make_loader(4), verbose=False)
    assert logged == {"validation.losses.a": 2.5, "validation.losses.total_loss": 4.5}
    assert len(batch_losses) == 2


def test_a_list_of_views_is_warned_of(make_trainer, make_loader):
    views = [NDict({"losses.a": torch.tensor(1.0)})["losses"]]
    with pytest.warns(UserWarning, match=r"keeps every batch .* Append batch_dict\['losses'\]\.copy\(\)"):
        (logged,) = make_trainer().validate(OfAList(views), make_loader(4), verbose=False)
    assert logged == {"validation.losses.a": 1.0}


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
        return torch.zeros(self.when) if isinstance(self.when, tuple) else self.count


@pytest.mark.parametrize("when", ["update", "compute"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_failing_metric_fails_the_run_with_its_name(make_module, make_trainer, make_loader, when):
    failing = MetricDefault(pred="model.y", target="data.y", metric=Failing(when))
    described = r"MetricDefault\(pred='model.y', target='data.y', metric=Failing\)"
    message = rf"The metric 'auc', {described}, failed: ZeroDivisionError: no samples of class 3"
    with pytest.raises(MetricError, match=message):
        make_trainer().validate(make_module(validation_metrics={"auc": failing}), make_loader(4), verbose=False)


@pytest.mark.parametrize("shape", [(0,), (2, 3), (2, 2, 2)])
def test_what_is_not_a_number_for_each_class_cannot_be_logged(make_module, make_trainer, make_loader, shape):
    metric = MetricDefault(pred="model.y", target="data.y", metric=Failing(shape))
    message = rf"one for each class, but 'f1' returned a tensor of shape {re.escape(str(shape))}\. Choose an average"
    with pytest.raises(ValueError, match=message):
        make_trainer().validate(make_module(validation_metrics={"f1": metric}), make_loader(4), verbose=False)


class Classes(nn.Module):
    """Logits of three classes, whose largest is at the whole number nearest to the first input."""

    reads, writes = ("data.x", "data.y"), ("model.logits", "data.label")

    def forward(self, batch_dict):
        distance = batch_dict["data.x"][:, :1] - torch.arange(3)
        batch_dict["model.logits"] = -distance.square()
        batch_dict["data.label"] = (batch_dict["data.y"][:, 0] > 0).long()
        return batch_dict


class Zero(nn.Module):
    reads, writes = (), ()

    def forward(self, batch_dict):
        return torch.zeros(())


def of_classes(metric, **options):
    return MetricDefault(pred="model.logits", target="data.label", metric=metric, **options)


def validate(make_module, make_trainer, make_loader, metric, batch_size=4):
    module = make_module(model=Classes(), losses={"zero": Zero()}, validation_metrics={"m": metric})
    trainer = make_trainer()
    trainer.validate(module, make_loader(24, batch_size), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items() if "losses" not in name}


def test_a_metric_of_each_class_is_logged_by_class_and_written_whole(make_module, make_trainer, make_loader, tmp_path):
    names = ["none", "one", "two"]
    metric = of_classes(MulticlassAccuracy(3, average=None), class_names=names)
    logged = validate(make_module, make_trainer, make_loader, metric)
    mean = logged.pop("validation.metrics.m.mean")
    assert list(logged) == [f"validation.metrics.m.{name}" for name in names]
    assert mean == pytest.approx(sum(logged.values()) / 3)
    with (tmp_path / "metric_validation.m.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "value"]
    assert [(name, float(value)) for name, value in rows[1:]] == list(zip(names, logged.values(), strict=True))
    assert (tmp_path / "metric_validation.m.png").read_bytes().startswith(b"\x89PNG")


def test_a_confusion_matrix_is_logged_by_its_diagonal_and_written_whole(
    make_module, make_trainer, make_loader, tmp_path
):
    logged = validate(make_module, make_trainer, make_loader, of_classes(MulticlassConfusionMatrix(3)))
    with (tmp_path / "metric_validation.m.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["target", "0", "1", "2"]
    matrix = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    assert matrix.sum() == 24
    assert logged == {f"validation.metrics.m.{i}": matrix[i, i].item() for i in range(3)}


def test_class_names_must_be_as_many_as_values(make_module, make_trainer, make_loader):
    metric = of_classes(MulticlassAccuracy(3, average=None), class_names=["a", "b"])
    with pytest.raises(
        ValueError, match=r"metric=MulticlassAccuracy\) has 2 class_names, but its value has shape \(3,\)"
    ):
        validate(make_module, make_trainer, make_loader, metric)


def keep(condition):
    def filtered(batch_dict):
        chosen = condition(batch_dict["data.label"])
        for key in ("data.label", "model.logits"):
            batch_dict[key] = batch_dict[key][chosen]
        return batch_dict

    return filtered


@pytest.mark.parametrize("metric", [MulticlassAccuracy(3), MulticlassF1Score(3), MulticlassAUROC(3)])
@pytest.mark.filterwarnings("ignore:No (positive|negative) samples in targets")
def test_a_batch_without_samples_does_not_update_a_metric(make_module, make_trainer, make_loader, metric):
    few = keep(lambda label: label > 0)
    one, eight = (
        validate(make_module, make_trainer, make_loader, of_classes(metric.clone(), preprocess_func=few), size)
        for size in (1, 8)
    )
    assert one == pytest.approx(eight)
    assert 0 <= one["validation.metrics.m"] <= 1


COLLECTION = MetricCollection({"acc": MulticlassAccuracy(3), "auroc": MulticlassAUROC(3)})


@pytest.mark.parametrize(
    ("metric", "names"),
    [(MulticlassAUROC(3), ["m"]), (MulticlassF1Score(3), ["m"]), (COLLECTION, ["m.acc", "m.auroc"])],
)
def test_a_metric_without_samples_in_an_epoch_is_nan_with_a_warning(
    make_module, make_trainer, make_loader, metric, names
):
    nothing = of_classes(metric, preprocess_func=keep(lambda label: label > 1))
    with pytest.warns(UserWarning, match="The metric 'm' of validation got no samples in this epoch") as caught:
        logged = validate(make_module, make_trainer, make_loader, nothing)
    assert len([one for one in caught if "got no samples" in str(one.message)]) == 1
    assert list(logged) == [f"validation.metrics.{name}" for name in names]
    assert all(math.isnan(value) for value in logged.values())


@pytest.mark.parametrize("metric", [MulticlassF1Score(3, average=None), MulticlassAUROC(3, average=None)])
@pytest.mark.filterwarnings("ignore:.*got no samples", "ignore:Checkpoint directory", "ignore:No .* samples")
def test_a_metric_of_each_class_without_samples_is_nan_under_all_its_names(
    make_module, make_trainer, make_loader, metric
):
    source = {"monitor": "validation.metrics.f1.mean", "mode": "max"}
    of_classes = MetricDefault(pred="none", target="none", metric=metric, class_names=["a", "b", "c"])
    of_classes.preprocess_func = lambda batch_dict: batch_dict | {"none": batch_dict["data.y"][:0]}
    module = make_module(validation_metrics={"f1": of_classes}, best_epoch_source=source, check="off")
    trainer = make_trainer()
    trainer.fit(module, make_loader(4), make_loader(4))
    names = [f"validation.metrics.f1.{name}" for name in ("a", "b", "c", "mean")]
    assert all(trainer.callback_metrics[name].isnan() for name in names)


class Returns(Metric):
    """A metric with a given value."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def update(self, batch_dict): ...

    def compute(self):
        return self.value


def test_a_metrics_array_is_logged_by_class(make_module, make_trainer, make_loader):
    module = make_module(validation_metrics={"of": Returns(np.array([1.0, 3.0]))})
    (logged,) = make_trainer().validate(module, make_loader(4), verbose=False)
    assert [logged[f"validation.metrics.of.{name}"] for name in ("0", "1", "mean")] == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("value", [(torch.zeros(1000), torch.zeros(1000)), "high", [1.0]])
def test_what_is_no_number_is_refused_by_its_type_alone(make_module, make_trainer, make_loader, value):
    module = make_module(validation_metrics={"odd": Returns(value)})
    with pytest.raises(ValueError, match=rf"but 'odd' returned a {type(value).__name__}\. Subclass the metric"):
        make_trainer().validate(module, make_loader(4), verbose=False)


def test_a_running_metric_is_logged(make_module, make_trainer, make_loader):
    logged = validate(make_module, make_trainer, make_loader, of_classes(Running(MulticlassAccuracy(3), window=2)))
    assert 0 <= logged["validation.metrics.m"] <= 1
