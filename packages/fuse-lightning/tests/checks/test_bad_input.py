"""What is wrong is said before training starts, where it can be known."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from fuse_core import WiringError
from fuse_lightning import LightningModuleDefault, MetricDefault


@pytest.mark.parametrize("mode", ["train", "validation", "test"])
def test_a_metric_whose_keys_nothing_writes(make_module, make_trainer, make_loader, mode):
    metric = MetricDefault(pred="model.why", target="data.y", metric=MeanSquaredError())
    module = make_module(**{f"{mode}_metrics": {"mse": metric}})
    trainer = make_trainer()
    run = {"train": trainer.fit, "validation": trainer.validate, "test": trainer.test}[mode]
    with pytest.raises(WiringError, match=r"MetricDefault 'metrics\.mse' reads 'model\.why'.*'model\.y'"):
        run(module, make_loader(4))
    assert trainer.global_step == 0


def test_a_prediction_key_that_nothing_writes(make_module, make_trainer, make_loader):
    with pytest.raises(WiringError, match=r"step_extract_predictions 'prediction_keys' reads 'model\.why'"):
        make_trainer().predict(make_module(prediction_keys=["model.why"]), make_loader(4))


def test_a_training_warns_of_prediction_keys_that_nothing_writes_and_goes_on(make_module, make_trainer, make_loader):
    trainer = make_trainer(max_epochs=2)
    message = r"predict would fail\. (.|\n)*reads 'model\.yy', which nothing .* Nearest keys: 'model\.y' \(written by"
    with pytest.warns(UserWarning, match=message) as warned:
        trainer.fit(make_module(prediction_keys=["model.yy"]), make_loader(8), make_loader(4))
    assert trainer.global_step == 4
    assert sum("predict would fail" in str(one.message) for one in warned) == 1


class Undeclared(nn.Module):
    """A model that does not say what it writes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch_dict):
        batch_dict["model.y"] = self.linear(batch_dict["data.x"])
        return batch_dict


@pytest.mark.parametrize("options", [{"prediction_keys": ["model", "data.y"]}, {"model": Undeclared()}])
def test_a_training_is_silent_of_prediction_keys_that_are_right_or_unknown(
    make_module, make_trainer, make_loader, recwarn, options
):
    make_trainer().fit(make_module(**{"prediction_keys": ["model.any"]} | options), make_loader(4))
    assert not [one for one in recwarn if "predict" in str(one.message)]


def test_keys_that_a_preprocessing_makes_are_no_mistake(make_module, make_trainer, make_loader):
    def derive(batch_dict):
        batch_dict["data.doubled"] = 2 * batch_dict["data.y"]
        return batch_dict

    metric = MetricDefault(pred="model.y", target="data.doubled", metric=MeanSquaredError(), preprocess_func=derive)
    make_trainer().validate(make_module(validation_metrics={"mse": metric}), make_loader(4), verbose=False)


def test_the_wiring_can_be_looked_at(make_module, make_loader):
    wiring = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))))
    assert wiring.writers["model.y"] == "ModelWrapSeqToDict 'model'"
    assert wiring.readers["data.y"] == ["LossDefault 'losses.mse'"]
    assert wiring.writers["losses.total_loss"] == "step_losses 'losses'"
    predicting = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))), mode="predict")
    assert predicting.readers["model.y"] == ["step_extract_predictions 'prediction_keys'"]


def test_the_wiring_of_one_of_several_loaders_can_be_looked_at(make_module, make_loader, mse_loss, mse_metric):
    module = make_module(validation_losses={"near": {"mse": mse_loss}, "far": {"far": mse_loss}})
    batch = next(iter(make_loader(4)))
    assert module.wiring(batch, "validation", "far").readers["data.y"] == ["LossDefault 'losses.far'"]
    with pytest.raises(ValueError, match=r"wiring\(loader=\) is one of 'near', 'far', got None"):
        module.wiring(batch, "validation")
    with pytest.raises(ValueError, match=r"wiring\(mode=\) is 'train', 'validation', 'test' or 'predict', got 'val'"):
        module.wiring(batch, "val")


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (
            "validation.losses.msee",
            r"never logged\. Did you mean 'validation\.losses\.mse'\? Logged are: train\.losses",
        ),
        ("validation.metrics.auc", r"never logged.*Logged are: .*validation\.losses\.total_loss\."),
        ("train.losses.ce", "never logged"),
    ],
)
def test_a_monitor_that_is_never_logged(make_module, make_trainer, make_loader, monitor, message):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=message):
        trainer.fit(make_module(best_epoch_source={"monitor": monitor}), make_loader(4), make_loader(4))
    assert trainer.global_step == 0


def test_a_monitor_of_validation_without_validation(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
    with pytest.raises(ValueError, match=r"never logged.*Logged are: train\.losses\.mse, train\.losses\.total_loss\."):
        make_trainer().fit(module, make_loader(4))


@pytest.mark.parametrize(
    "monitor", ["val_loss", "mine", "validation_losses.mse", "test.losses.mse", "train.losses.mse.x"]
)
def test_no_other_name_is_logged_either_by_the_module_as_it_is(make_module, make_trainer, make_loader, monitor):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=rf"best_epoch_source monitors '{monitor}', which is never logged"):
        trainer.fit(make_module(best_epoch_source={"monitor": monitor}), make_loader(4), make_loader(4))
    assert trainer.global_step == 0


def test_a_monitor_of_validation_that_the_trainer_leaves_out(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
    with pytest.raises(ValueError, match="never logged"):
        make_trainer(limit_val_batches=0).fit(module, make_loader(4), make_loader(4))


@pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint])
def test_a_callback_that_monitors_what_is_never_logged(make_module, make_trainer, make_loader, callback):
    trainer = make_trainer(callbacks=[callback(monitor="val_loss")])
    message = rf"{callback.__name__} monitors 'val_loss', which is never logged\. Logged are: train\.losses\.mse,"
    with pytest.raises(ValueError, match=message):
        trainer.fit(make_module(), make_loader(4), make_loader(4))
    assert trainer.global_step == 0


def plateau(monitor):
    def configure(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": monitor}}

    return configure


def test_a_schedule_that_follows_what_is_never_logged(make_module, make_trainer, make_loader):
    module = make_module(optimizers_and_lr_schs=plateau("train.loses.mse"))
    message = (
        r"ReduceLROnPlateau monitors 'train\.loses\.mse', which is never logged\. Did you mean 'train\.losses\.mse'\?"
    )
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(module, make_loader(4))


def test_monitors_that_are_logged_pass(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(
        model_dir=tmp_path / "run",
        optimizers_and_lr_schs=plateau("validation.metrics.both.MeanSquaredError"),
        validation_metrics={
            "both": MetricDefault(
                pred="model.y", target="data.y", metric=MetricCollection([MeanSquaredError(), MeanAbsoluteError()])
            )
        },
        callbacks=[
            ModelCheckpoint(tmp_path / "newest", filename="newest", monitor="step", mode="max"),
            EarlyStopping("lr-SGD", patience=5, check_on_train_epoch_end=True),
            EarlyStopping("maybe", strict=False),
        ],
    )
    trainer = make_trainer(logger=CSVLogger(tmp_path / "logs"), log_every_n_steps=1)
    trainer.fit(module, make_loader(4), make_loader(4))
    assert trainer.global_step == 1


class Subclass(LightningModuleDefault):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("mine", 1.0, on_epoch=True, batch_size=4)


def as_subclass(module, kind):
    module.__class__ = kind
    return module


def test_what_a_subclass_logs_may_be_monitored(make_module, make_trainer, make_loader):
    module = as_subclass(make_module(best_epoch_source={"monitor": "mine"}), Subclass)
    make_trainer().fit(module, make_loader(4))
    assert module.trainer.checkpoint_callback.best_model_score == 1


def test_what_a_callback_logs_may_be_monitored(make_module, make_trainer, make_loader):
    class Logs(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            pl_module.log("mine", 1.0, on_epoch=True, batch_size=4)

    trainer = make_trainer(callbacks=[Logs()])
    trainer.fit(make_module(best_epoch_source={"monitor": "mine"}), make_loader(4))
    assert trainer.checkpoint_callback.best_model_score == 1


class Regularized(nn.Module):
    """Writes a loss of its own."""

    def __init__(self, writes):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        if writes:
            self.reads, self.writes = ("data.x",), ("model.y", "losses.sparsity_of_all")

    def forward(self, batch_dict):
        batch_dict["model.y"] = self.linear(batch_dict["data.x"])
        batch_dict["losses.sparsity_of_all"] = self.linear.weight.detach().abs().sum()
        return batch_dict


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("mode", ["train", "validation"])
def test_a_loss_that_the_model_writes_may_be_monitored(
    make_module, make_trainer, make_loader, tmp_path, declared, mode
):
    module = make_module(model=Regularized(declared), best_epoch_source={"monitor": f"{mode}.losses.sparsity_of_all"})
    make_trainer().fit(module, make_loader(4), make_loader(4))
    assert (tmp_path / "best_epoch.ckpt").exists()


@pytest.mark.parametrize(("declared", "monitor"), [(True, "train.losses.sparsety"), (False, "train.loss.sparsity")])
def test_a_model_that_writes_losses_logs_nothing_else(make_module, make_trainer, make_loader, declared, monitor):
    module = make_module(model=Regularized(declared), best_epoch_source={"monitor": monitor})
    with pytest.raises(ValueError, match=rf"monitors '{monitor}', which is never logged"):
        make_trainer().fit(module, make_loader(4))


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_monitor_that_only_a_subclass_may_log_stops_after_an_epoch_at_the_latest(
    make_module, make_trainer, make_loader
):
    module = as_subclass(make_module(best_epoch_source={"monitor": "train.losses.msee"}), Subclass)
    warned = pytest.warns(
        UserWarning, match=r"which nothing logs, unless Subclass does\. Did you mean 'train\.losses\.mse'"
    )
    stopped = pytest.raises(ValueError, match=r"'train\.losses\.msee', which epoch 0 did not log\. Logged are: mine, ")
    with warned, stopped:
        make_trainer().fit(module, make_loader(4))


def test_a_subclass_that_only_is_constructed_otherwise_logs_nothing_else(make_module, make_trainer, make_loader):
    class Constructed(LightningModuleDefault):
        def __init__(self):
            raise AssertionError  # the test's module is made already

    module = as_subclass(make_module(best_epoch_source={"monitor": "mine"}), Constructed)
    with pytest.raises(ValueError, match="'mine', which is never logged"):
        make_trainer().fit(module, make_loader(4))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"monitr": "x"}, TypeError, r"`ModelCheckpoint` has no argument 'monitr'\. Did you mean 'monitor'\?"),
        ({"monitor": "x", "savetopk": 2}, TypeError, r"has no argument 'savetopk'\. Did you mean 'save_top_k'\?"),
        (
            {"monitor": "x", "qqq": 2},
            TypeError,
            r"`ModelCheckpoint` has no argument 'qqq'\. Its arguments: dirpath, filename, monitor, ",
        ),
        ({"monitor": "x", "mode": "mim"}, ValueError, "takes the mode 'min' or 'max', got 'mim'"),
        ({"mode": "min"}, ValueError, "needs a monitor, the name of a logged value"),
        ({"monitor": 3}, ValueError, "needs a monitor, the name of a logged value"),
        ("validation.losses.mse", TypeError, "takes a dict of ModelCheckpoint arguments, or several; got 'validation"),
        ([{"monitor": "x"}, {"monitor": "x"}], ValueError, "names the monitor 'x' twice"),
    ],
)
def test_a_best_epoch_source_that_is_wrong_fails_at_construction(make_module, source, error, message):
    with pytest.raises(error, match=message):
        make_module(best_epoch_source=source)


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_an_empty_loader(make_module, make_trainer, stage):
    empty = torch.utils.data.DataLoader([])
    message = rf"The loader for {stage} gives no batch\. Is its dataset empty"
    with pytest.raises(ValueError, match=message):
        getattr(make_trainer(), stage)(make_module(prediction_keys=["model.y"]), empty)


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
def test_an_empty_validation_loader_is_noticed_before_training(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=r"Loader 1 for validate gives no batch"):
        trainer.fit(make_module(), make_loader(4), [make_loader(4), torch.utils.data.DataLoader([])])
    assert trainer.global_step == 0


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


def test_names_may_be_separated_by_slashes_and_drawn_over_epochs(make_module, make_trainer, make_loader, mse_metric):
    module = make_module(
        tensorboard_sep="/",
        log_unit="epoch",
        train_metrics={"mse": mse_metric()},
        best_epoch_source={"monitor": "validation/losses/mse"},
    )
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, make_loader(8), make_loader(4))
    assert {"train/losses/mse", "train/metrics/mse", "validation/losses/total_loss"} < set(trainer.callback_metrics)
    assert trainer.callback_metrics["step"] == 1
