import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torchmetrics import MeanSquaredError

from fuse_core import NDict, WiringError, collate
from fuse_lightning import LightningModuleDefault, MetricDefault, ModelEpochSummary, PredictionsToFile, RunReport
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict
from fuse_optim import SAM

MONITOR = {"monitor": "validation.losses.total_loss", "mode": "min"}


def samples(count, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, generator=generator)
    targets = inputs.sum(1, keepdim=True) + offset
    return [
        NDict({"data": {"sample_id": i, "x": x, "y": y}}) for i, (x, y) in enumerate(zip(inputs, targets, strict=True))
    ]


def loader(count, batch_size=4, offset=0.0):
    return torch.utils.data.DataLoader(samples(count, offset), batch_size=batch_size, collate_fn=collate)


def make_module(model_dir, **options):
    torch.manual_seed(0)
    mse = LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)
    defaults = {
        "model_dir": model_dir,
        "model": ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"]),
        "losses": {"mse": mse},
        "optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=0.05),
    }
    return LightningModuleDefault(**defaults | options)


def make_trainer(model_dir, **options):
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "default_root_dir": model_dir,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**defaults | options)


def mse_metric():
    return MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError())


def test_training_lowers_the_loss_and_keeps_the_best_and_the_last_epoch(tmp_path, capsys):
    module = make_module(tmp_path, best_epoch_source=MONITOR)
    trainer = make_trainer(tmp_path, max_epochs=5)
    trainer.fit(module, loader(16), loader(8))
    assert trainer.callback_metrics["validation.losses.mse"] < 0.7
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"best_epoch.ckpt", "last.ckpt"}
    summary = (tmp_path / "epoch_summary_validation.losses.total_loss.txt").read_text()
    assert "| losses.total_loss * |" in capsys.readouterr().out
    assert "| validation.losses.total_loss * |" in summary


@pytest.mark.parametrize("mode", ["validation", "test"])
def test_logged_losses_are_means_over_samples(tmp_path, mode):
    module = make_module(tmp_path, validation_metrics={"mse": mse_metric()}, test_metrics={"mse": mse_metric()})
    trainer = make_trainer(tmp_path)
    data = loader(10, batch_size=4)  # the last batch has two samples
    (logged,) = getattr(trainer, {"validation": "validate", "test": "test"}[mode])(module, data, verbose=False)
    batch = module(collate(samples(10)))
    expected = nn.functional.mse_loss(batch["model.y"], batch["data.y"]).item()
    names = {f"{mode}.losses.mse", f"{mode}.losses.total_loss", f"{mode}.metrics.mse"}
    assert set(logged) == names
    for name in names:
        assert logged[name] == pytest.approx(expected, rel=1e-6)


def test_the_logged_training_loss_is_the_mean_over_the_epochs_samples(tmp_path):
    module = make_module(
        tmp_path,
        train_metrics={"mse": mse_metric()},
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
    )
    trainer = make_trainer(tmp_path)
    trainer.fit(module, loader(10))
    batch = module(collate(samples(10)))
    expected = nn.functional.mse_loss(batch["model.y"], batch["data.y"]).item()
    assert trainer.callback_metrics["train.losses.mse"].item() == pytest.approx(expected, rel=1e-6)
    assert trainer.callback_metrics["train.metrics.mse"].item() == pytest.approx(expected, rel=1e-6)


def test_an_optimizer_that_evaluates_twice_is_logged_once_at_the_weights(tmp_path):
    calls = []

    class CountingModule(LightningModuleDefault):
        def training_step(self, batch_dict, batch_idx):
            total = super().training_step(batch_dict, batch_idx)
            calls.append(total.item())
            return total

    torch.manual_seed(0)
    template = make_module(tmp_path)
    module = CountingModule(
        model_dir=tmp_path,
        model=template.model,
        losses=dict(template.losses.items()),
        train_metrics={"mse": mse_metric()},
        optimizers_and_lr_schs=lambda module: SAM(module.parameters(), torch.optim.SGD, rho=0.5, lr=0.01),
    )
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader(8))
    assert len(calls) == 4  # two batches, two passes each
    clean = (calls[0] + calls[2]) / 2
    assert trainer.callback_metrics["train.losses.mse"].item() == pytest.approx(clean, rel=1e-6)
    assert trainer.callback_metrics["train.metrics.mse"].item() == pytest.approx(clean, rel=1e-6)
    assert trainer.global_step == 2


@pytest.mark.parametrize("optimizer", ["SAM", "LBFGS"])
def test_optimizers_that_evaluate_repeatedly_refuse_accumulation(tmp_path, optimizer):
    make = {
        "SAM": lambda module: SAM(module.parameters(), torch.optim.SGD, lr=0.1),
        "LBFGS": lambda module: torch.optim.LBFGS(module.parameters()),
    }
    module = make_module(tmp_path, optimizers_and_lr_schs=make[optimizer])
    with pytest.raises(ValueError, match=rf"{optimizer} evaluates its batch more than once.*accumulate_grad_batches=2"):
        make_trainer(tmp_path, accumulate_grad_batches=2).fit(module, loader(8))


def test_validation_may_have_losses_of_its_own(tmp_path):
    l1 = LossDefault(pred="model.y", target="data.y", callable=nn.functional.l1_loss)
    module = make_module(tmp_path, validation_losses={"l1": l1})
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader(8), loader(8))
    assert {name for name in trainer.callback_metrics if name.startswith("validation.losses")} == {
        "validation.losses.l1",
        "validation.losses.total_loss",
    }


def test_losses_with_parameters_are_part_of_the_module(tmp_path):
    weighted = LossDefault(pred="p", target="t", callable=nn.CrossEntropyLoss(weight=torch.ones(2)))
    module = make_module(tmp_path, losses={"ce": weighted})
    assert [name for name in module.state_dict() if "callable" in name] == ["losses.ce.callable.weight"]
    assert make_module(tmp_path).state_dict().keys() == {"model.model.weight", "model.model.bias"}


def test_predicting_gives_the_keys_asked_for(tmp_path):
    module = make_module(tmp_path)
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"Give LightningModuleDefault\(prediction_keys=\[\.\.\.\]\)"):
        trainer.predict(module, loader(4))
    module.set_predictions_keys(["model.y"])
    first, second = trainer.predict(module, loader(6))
    assert first["data.sample_id"] == [0, 1, 2, 3]
    assert second["model.y"].shape == (2, 1)


def test_the_leaves_of_a_branch_can_be_predicted(tmp_path):
    module = make_module(tmp_path, prediction_keys=["model"])
    (batch,) = make_trainer(tmp_path).predict(module, loader(4))
    assert list(batch) == ["data.sample_id", "model.y"]


def test_the_batch_carries_the_global_step(tmp_path):
    seen = []

    class Spy(nn.Linear):
        def forward(self, batch_dict):
            seen.append(batch_dict["global_step"])
            batch_dict["model.y"] = super().forward(batch_dict["data.x"])
            return batch_dict

    module = make_module(tmp_path, model=Spy(3, 1), check="wiring")  # the contract would run the model twice before
    make_trainer(tmp_path, max_epochs=1).fit(module, loader(12))
    assert seen == [0, 1, 2]


def test_plain_dict_batches_work_too(tmp_path):
    module = make_module(tmp_path)
    batch = {"data": {"x": torch.zeros(2, 3), "y": torch.zeros(2, 1), "sample_id": [0, 1]}}
    assert type(module(batch)) is NDict


class Forgets(nn.Module):
    """Does not return the batch_dict."""

    def forward(self, batch_dict):
        batch_dict["model.y"] = batch_dict["data.x"]


def test_a_model_that_returns_no_batch_dict_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"but Forgets returned a NoneType\. Return the batch_dict, or wrap"):
        make_module(tmp_path, model=Forgets())({"data.x": torch.zeros(2, 3)})


def test_a_schedulers_dict_is_passed_on(tmp_path):
    module = make_module(tmp_path)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module = make_module(tmp_path, optimizers_and_lr_schs={"optimizer": optimizer})
    assert module.configure_optimizers() == {"optimizer": optimizer}


def test_training_needs_an_optimizer(tmp_path):
    with pytest.raises(ValueError, match="Training needs an optimizer"):
        make_trainer(tmp_path).fit(make_module(tmp_path, optimizers_and_lr_schs=None), loader(4))


def test_a_missing_key_stops_with_the_components_name(tmp_path):
    loss = LossDefault(pred="model.z", target="data.y", callable=nn.functional.mse_loss)
    with pytest.raises(WiringError, match=r"LossDefault 'losses\.mse' reads 'model\.z'"):
        make_trainer(tmp_path).fit(make_module(tmp_path, losses={"mse": loss}), loader(4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"losses": {"b": nn.MSELoss()}}, TypeError, r"'b', a MSELoss, takes other.*callable=MSELoss\(\)\), or"),
        ({"losses": {"f": nn.functional.mse_loss}}, TypeError, r"losses=\) takes modules.* 'f' is a function"),
        ({"train_metrics": {"m": MeanSquaredError}}, TypeError, r"train_metrics=\) takes modules"),
        ({"losses": {"total_loss": nn.Identity()}}, ValueError, "'total_loss' is taken by the losses' sum"),
        ({"losses": {"keys": nn.Identity()}}, ValueError, r"losses=\) needs names that a module may have"),
        ({"best_epoch_source": {"mode": "max"}}, ValueError, "best_epoch_source needs a monitor"),
        ({"best_epoch_source": "validation.losses.mse"}, TypeError, "takes a dict of ModelCheckpoint arguments"),
        ({"best_epoch_source": [MONITOR, MONITOR | {"mode": "max"}]}, ValueError, "names the monitor .* twice"),
        ({"prediction_keys": "model.y"}, TypeError, r"Use \['model\.y'\]"),
    ],
)
def test_bad_arguments_fail_at_construction(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make_module(tmp_path, **options)


def test_several_sources_give_several_checkpoints_and_change_no_argument(tmp_path):
    sources = [dict(MONITOR), {"monitor": "validation.losses.mse", "mode": "max"}]
    module = make_module(tmp_path, best_epoch_source=sources)
    make_trainer(tmp_path, max_epochs=1).fit(module, loader(8), loader(8))
    assert sources == [MONITOR, {"monitor": "validation.losses.mse", "mode": "max"}]
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {
        "best_epoch_validation.losses.total_loss.ckpt",
        "best_epoch_validation.losses.mse.ckpt",
        "last.ckpt",
    }


def test_callbacks_are_added_to_the_default_ones(tmp_path):
    mine = pl.Callback()
    module = make_module(tmp_path, callbacks=[mine], best_epoch_source=MONITOR)
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader(4), loader(4))
    assert mine in trainer.callbacks
    assert sum(isinstance(callback, ModelCheckpoint) for callback in trainer.callbacks) == 2
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best_epoch.ckpt")


@pytest.mark.parametrize("checkpoint", ["last.ckpt", "best_epoch.ckpt"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # that it is not empty is what resuming is about
def test_the_best_epoch_survives_resuming(tmp_path, checkpoint):
    trainer = make_trainer(tmp_path, max_epochs=3)
    trainer.fit(make_module(tmp_path, best_epoch_source=MONITOR), loader(8), loader(8))
    # Validation on other targets makes every later epoch worse than those before.
    resumed = make_trainer(tmp_path, max_epochs=4)
    resumed.fit(
        make_module(tmp_path, best_epoch_source=MONITOR),
        loader(8),
        loader(8, offset=100.0),
        ckpt_path=tmp_path / checkpoint,
        weights_only=True,
    )
    (summary,) = (callback for callback in resumed.callbacks if isinstance(callback, ModelEpochSummary))
    assert summary.best_epoch == 2
    text = (tmp_path / "epoch_summary_validation.losses.total_loss.txt").read_text()
    assert "best epoch (2) | current epoch (3)" in text


def test_prediction_keys_that_are_not_set(make_module, make_trainer, make_loader):
    with pytest.raises(ValueError, match=r"Give LightningModuleDefault\(prediction_keys=\[\.\.\.\]\)"):
        make_trainer().predict(make_module(), make_loader(4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="No supported gpu backend found"):
        pl.Trainer(accelerator="gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_unit": "batch"}, r"log_unit=\) is one of None, 'optimizer_step', 'epoch'; got 'batch'"),
        ({"on_nonfinite": None}, r"on_nonfinite=\) is one of 'raise', 'skip', 'ignore'; got None"),
    ],
)
def test_unknown_options(make_module, options, message):
    with pytest.raises(ValueError, match=message):
        make_module(**options)


@pytest.mark.parametrize("run", ["fit", "validate", "predict"])
def test_a_batch_that_is_a_tuple_is_told_what_to_wrap(make_module, make_trainer, run):
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.zeros(4, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    message = r"a list of 2 values\. Wrap its dataset, DatasetWrapSeqToDict\(.*collate_fn=collate"
    with pytest.raises(TypeError, match=message):
        getattr(make_trainer(), run)(make_module(prediction_keys=["model.y"]), loader)


@pytest.mark.parametrize("losses", [None, {}])
def test_a_module_without_losses_tests_and_predicts(make_module, make_trainer, make_loader, mse_metric, losses):
    module = make_module(losses=losses, test_metrics={"mse": mse_metric()}, prediction_keys=["model.y"])
    (logged,) = make_trainer().test(module, make_loader(4), verbose=False)
    assert list(logged) == ["test.metrics.mse"]
    assert len(make_trainer().predict(module, make_loader(8))) == 2
    with pytest.raises(ValueError, match=r"Training needs a loss\. Give LightningModuleDefault\(losses="):
        make_trainer().fit(module, make_loader(4))


def test_folder_model_and_losses_may_be_positional(tmp_path, mse_loss):
    model = nn.Identity()
    module = LightningModuleDefault(tmp_path, model, {"mse": mse_loss})
    assert (module.model_dir, module.model, list(module.losses)) == (tmp_path, model, ["mse"])


def test_a_checkpoint_with_losses_and_metrics_loads_without_them(make_module, make_trainer, make_loader, tmp_path):
    loss = LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)
    loss.register_buffer("factor", torch.ones(1))
    metric = MeanSquaredError()
    metric.persistent(True)
    metrics = {"mse": MetricDefault(pred="model.y", target="data.y", metric=metric)}
    trained = make_module(losses={"mse": loss}, train_metrics=metrics, validation_metrics=metrics)
    make_trainer().fit(trained, make_loader(8), make_loader(8))
    new = make_module().model
    module = LightningModuleDefault.load_from_checkpoint(tmp_path / "last.ckpt", model_dir=None, model=new)
    torch.testing.assert_close(module.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("option", [{"save_model": True}, {"best_epoch_source": MONITOR}, {"save_every_n_steps": 5}])
def test_options_that_write_files_need_a_folder(make_module, option):
    with pytest.raises(ValueError, match=rf"^{next(iter(option))}=(True)? needs model_dir, the folder for"):
        make_module(model_dir=None, **option)


def test_all_files_go_below_the_home_folder(make_module, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_module(model_dir="~/run").model_dir == tmp_path / "run"
    assert ModelEpochSummary("~/run", "validation.losses.mse").model_dir == tmp_path / "run"
    assert PredictionsToFile("~/run/predictions.csv").path == tmp_path / "run" / "predictions.csv"
    assert RunReport("~/run").run_dir == tmp_path / "run"


def test_without_a_folder_nothing_is_written_but_lightnings_checkpoint(
    make_module, make_trainer, make_loader, tmp_path
):
    make_trainer().fit(make_module(model_dir=None), make_loader(8), make_loader(8))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"checkpoints/epoch=0-step=2.ckpt"}


def test_a_compiled_module_is_compiled_once(make_module, make_trainer, make_loader):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    make_trainer().fit(torch.compile(make_module(), backend=backend), make_loader(32))
    # torch 2.6 cannot trace an NDict; torch 2.11 compiles again, once, for the number of steps.
    expected = {"2.6": 0, "2.11": 2}.get(torch.__version__.rpartition(".")[0], 1)
    assert len(graphs) == expected


def test_batches_of_several_training_loaders_have_the_loaders_name_before_their_keys(
    make_module, make_trainer, make_loader
):
    module = make_module(
        model=ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["near.data.x"], model_outputs=["model.y"]),
        losses={"far": LossDefault(pred="model.y", target="far.data.y", callable=nn.functional.mse_loss)},
    )
    trainer = make_trainer()
    trainer.fit(module, {"near": make_loader(8), "far": make_loader(8, offset=100.0)})
    assert trainer.callback_metrics["train.losses.far"] > 1000
