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
    MulticlassROC,
)
from torchmetrics.wrappers import Running

from fuse_core import NDict
from fuse_lightning import MetricDefault, MetricError, epoch_end_compute_and_log_losses
from fuse_lightning.epoch_ends import log_reduced


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


def test_a_metric_whose_values_are_not_named_by_strings_is_told(make_module, make_trainer, make_loader):
    module = make_module(validation_metrics={"odd": Returns({0: 1.0})})
    with pytest.raises(MetricError, match=r"The metric 'odd', Returns, failed: TypeError: .* got 0 of type int"):
        make_trainer().validate(module, make_loader(4), verbose=False)


def test_a_curve_is_refused_with_the_metric_and_what_to_log(make_module, make_trainer, make_loader):
    described = r"MetricDefault\(pred='model.logits', target='data.label', metric=MulticlassROC\)"
    message = rf"{described}: metrics are logged as numbers, but 'm' returned a tuple\. .* AUROC in place of ROC"
    with pytest.raises(ValueError, match=message):
        validate(make_module, make_trainer, make_loader, of_classes(MulticlassROC(3, thresholds=4)))


def test_a_running_metric_is_logged(make_module, make_trainer, make_loader):
    logged = validate(make_module, make_trainer, make_loader, of_classes(Running(MulticlassAccuracy(3), window=2)))
    assert 0 <= logged["validation.metrics.m"] <= 1
