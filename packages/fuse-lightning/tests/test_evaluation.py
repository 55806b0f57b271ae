import pytest
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torchmetrics import MeanAbsoluteError

from fuse_core import WiringError
from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

L1 = LossDefault(pred="model.y", target="data.y", callable=nn.functional.l1_loss)


FAR = LossDefault(pred="model.y", target="data.far", callable=nn.functional.l1_loss)


def validate(trainer, module, loaders, mode="validate"):
    return {
        key: value for part in getattr(trainer, mode)(module, loaders, verbose=False) for key, value in part.items()
    }


@pytest.mark.parametrize("mode", ["validation", "test"])
def test_loaders_of_a_mapping_are_logged_by_their_names(make_module, make_trainer, make_loader, mse_metric, mode):
    module = make_module(validation_metrics={"mse": mse_metric()}, test_metrics={"mse": mse_metric()})
    loaders = {"near": make_loader(8), "far": make_loader(10, offset=9.0)}
    logged = validate(make_trainer(), module, loaders, {"validation": "validate", "test": "test"}[mode])
    expected = {}
    for name, loader in loaders.items():
        (alone,) = make_trainer().validate(make_module(), loader, verbose=False)
        for value in ("losses.mse", "losses.total_loss", "metrics.mse"):
            expected[f"{mode}.{name}.{value}"] = pytest.approx(alone["validation.losses.mse"], rel=1e-6)
    assert logged == expected


def test_loaders_without_names_are_numbered(make_module, make_trainer, make_loader):
    logged = validate(make_trainer(), make_module(), [make_loader(4), make_loader(4)])
    assert "validation.loader_0.losses.mse" in logged
    assert "validation.loader_1.losses.mse" in logged


@pytest.mark.parametrize("as_pairs", [False, True])
def test_each_loader_may_have_losses_and_metrics_of_its_own(
    make_module, make_trainer, make_loader, mse_loss, mse_metric, as_pairs
):
    losses = {"a": {"l1": L1}, "b": {"mse": mse_loss}}
    metrics = {"a": {}, "b": {"error": mse_metric()}}
    if as_pairs:
        losses, metrics = list(losses.items()), list(metrics.items())
    module = make_module(validation_losses=losses, validation_metrics=metrics)
    logged = validate(make_trainer(), module, [make_loader(4), make_loader(4)])
    assert set(logged) == {
        "validation.a.losses.l1",
        "validation.a.losses.total_loss",
        "validation.b.losses.mse",
        "validation.b.losses.total_loss",
        "validation.b.metrics.error",
    }


def test_a_mapping_of_loaders_may_come_in_another_order(make_module, make_trainer, make_loader, mse_loss):
    module = make_module(validation_losses={"a": {"l1": L1}, "b": {"mse": mse_loss}})
    logged = validate(make_trainer(), module, {"b": make_loader(4), "a": make_loader(4)})
    assert {"validation.a.losses.l1", "validation.b.losses.mse"} < set(logged)


def test_test_may_have_losses_other_than_validations(make_module, make_trainer, make_loader):
    module = make_module(test_losses={"l1": L1})
    (logged,) = make_trainer().test(module, make_loader(4), verbose=False)
    assert set(logged) == {"test.losses.l1", "test.losses.total_loss"}


@pytest.mark.parametrize("sep", [".", "/"])
def test_the_best_epoch_may_be_that_of_one_loader(make_module, make_trainer, make_loader, tmp_path, sep):
    monitor = sep.join(["validation", "a", "losses", "mse"])
    module = make_module(best_epoch_source={"monitor": monitor}, tensorboard_sep=sep)
    make_trainer().fit(module, make_loader(8), {"a": make_loader(4), "b": make_loader(4)})
    assert (tmp_path / "best_epoch.ckpt").exists()


def test_a_metric_that_was_changed_between_runs_is_changed_for_every_loader(
    make_module, make_trainer, make_loader, mse_metric
):
    module = make_module(test_metrics={"mse": mse_metric()})
    loaders = [make_loader(4), make_loader(4)]
    validate(make_trainer(), module, loaders, "test")
    module.test_metrics["mse"].pred = "data.y"
    logged = validate(make_trainer(), module, loaders, "test")
    assert [logged[f"test.loader_{i}.metrics.mse"] for i in range(2)] == [0, 0]


def test_predicting_from_several_loaders_gives_a_list_for_each(make_module, make_trainer, make_loader):
    module = make_module(prediction_keys=["model.y"])
    first, second = make_trainer().predict(module, [make_loader(4), make_loader(8)])
    assert [len(first), len(second)] == [1, 2]


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
def test_loaders_whose_batches_come_together_are_logged_as_one(make_module, make_trainer, make_loader, mode):
    near = ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["near.data.x"], model_outputs=["model.y"])
    loss = LossDefault(pred="model.y", target="far.data.y", callable=nn.functional.l1_loss)
    metric = MetricDefault(pred="model.y", target="far.data.y", metric=MeanAbsoluteError())
    module = make_module(model=near, validation_losses={"l1": loss}, validation_metrics={"mae": metric})
    loaders = CombinedLoader({"near": make_loader(8), "far": make_loader(8, offset=9.0)}, mode)
    logged = validate(make_trainer(), module, loaders)
    batch = next(iter(make_loader(8, batch_size=8, offset=9.0)))
    expected = (near.model(batch["data.x"]) - batch["data.y"]).abs().mean().item()
    names = ("validation.losses.l1", "validation.losses.total_loss", "validation.metrics.mae")
    assert logged == pytest.approx(dict.fromkeys(names, expected), rel=1e-5)


def test_the_wiring_of_each_loader_is_checked(make_module, make_trainer, make_loader):
    module = make_module(validation_losses={"a": {"l1": L1}, "b": {"l1": FAR}})
    with pytest.raises(WiringError, match=r"'losses\.l1' reads 'data\.far'"):
        make_trainer().validate(module, [make_loader(4), make_loader(4)])
