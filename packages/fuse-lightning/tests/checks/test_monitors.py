import pytest
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from fuse_lightning import LightningModuleDefault, MetricDefault


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


def test_a_monitor_of_a_loader_whose_first_validation_comes_later(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "validation.far.losses.mse"})
    trainer = make_trainer(check_val_every_n_epoch=2, max_epochs=2)
    trainer.fit(module, make_loader(8), {"near": make_loader(4), "far": make_loader(8)})
    assert "validation.far.losses.mse" in trainer.callback_metrics


@pytest.mark.parametrize(
    "monitor", ["val_loss", "mine", "validation_losses.mse", "test.losses.mse", "train.losses.mse.x"]
)
def test_no_other_name_is_logged_either_by_the_module_as_it_is(make_module, make_trainer, make_loader, monitor):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=rf"best_epoch_source monitors '{monitor}', which is never logged"):
        trainer.fit(make_module(best_epoch_source={"monitor": monitor}), make_loader(4), make_loader(4))
    assert trainer.global_step == 0


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_monitor_of_validation_that_the_trainer_leaves_out(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
    trainer = make_trainer(limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"best_epoch_source monitors .*limit_val_batches=0\) leaves out validation"):
        trainer.fit(module, make_loader(4), make_loader(4))
    assert trainer.global_step == 1


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
