from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from fuse_lightning import ModelEpochSummary, model_default_callbacks

MONITOR = {"monitor": "validation.losses.mse", "mode": "min"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def callbacks_of(trainer, kind):
    return [one for one in trainer.callbacks if isinstance(one, kind)]


def test_the_last_checkpoint_is_written_after_every_epoch(make_module, make_trainer, make_loader, tmp_path):
    class StopError(Exception):
        pass

    class StopInSecondEpoch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise StopError

    with pytest.raises(StopError):
        make_trainer(max_epochs=2, callbacks=[StopInSecondEpoch()]).fit(make_module(), make_loader(4))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


def test_several_best_epochs_are_kept(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(best_epoch_source=MONITOR | {"save_top_k": 2})
    make_trainer(max_epochs=4).fit(module, make_loader(8), make_loader(8))
    best = sorted(path.name for path in tmp_path.glob("best_epoch*.ckpt"))
    assert best == ["best_epoch-epoch=2-step=6.ckpt", "best_epoch-epoch=3-step=8.ckpt"]


def test_a_monitor_with_slashes_names_a_file():
    sources = [{"monitor": "validation/losses/a"}, {"monitor": "validation/losses/b"}]
    assert model_default_callbacks("runs", sources)[0].filename == "best_epoch_validation_losses_a"


def test_a_checkpoint_callback_of_the_trainer_works_beside_the_modules(
    make_module, make_trainer, make_loader, tmp_path, capsys
):
    mine = ModelCheckpoint(tmp_path / "mine", **MONITOR)
    trainer = make_trainer(callbacks=[mine])
    trainer.fit(make_module(best_epoch_source=MONITOR), make_loader(8), make_loader(8))
    assert mine in trainer.callbacks
    assert len(names(tmp_path / "mine")) == 1
    assert {"best_epoch.ckpt", "last.ckpt"} < names(tmp_path)
    assert "override" not in capsys.readouterr().err


def test_the_checkpoint_that_lightning_adds_gives_way(make_module, make_trainer, make_loader, tmp_path):
    make_trainer().fit(make_module(), make_loader(8))
    assert names(tmp_path) == {"last.ckpt"}


def test_no_checkpoints_if_the_trainer_is_told_so(make_module, make_trainer, make_loader, tmp_path):
    trainer = make_trainer(enable_checkpointing=False)
    trainer.fit(make_module(best_epoch_source=MONITOR), make_loader(8), make_loader(8))
    assert names(tmp_path) == {"epoch_summary_validation.losses.mse.txt"}


def test_callbacks_are_attached_once_to_a_trainer(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source=MONITOR)
    trainer = make_trainer()
    trainer.fit(module, make_loader(8), make_loader(8))
    fitted = list(trainer.callbacks)
    trainer.test(module, make_loader(8), verbose=False)
    assert all(one is other for one, other in zip(fitted, trainer.callbacks, strict=True))
    assert trainer.checkpoint_callback.best_model_path.endswith("best_epoch.ckpt")


def test_another_module_brings_callbacks_of_its_own(make_module, make_trainer, make_loader, tmp_path):
    trainer = make_trainer(callbacks=[ModelCheckpoint(tmp_path / "mine")])
    trainer.validate(make_module(best_epoch_source=MONITOR), make_loader(8), verbose=False)
    trainer.validate(make_module(model_dir=tmp_path / "second"), make_loader(8), verbose=False)
    folders = {Path(one.dirpath).name for one in callbacks_of(trainer, ModelCheckpoint)}
    assert folders == {"second", "mine"}


def test_a_summary_of_another_module_is_no_reason_to_write_checkpoints(
    make_module, make_trainer, make_loader, tmp_path
):
    trainer = make_trainer(enable_checkpointing=False)
    for _ in range(2):
        trainer.validate(make_module(best_epoch_source=MONITOR), make_loader(8), verbose=False)
    assert not callbacks_of(trainer, ModelCheckpoint)


def test_callbacks_of_the_trainer_stay_beside_other_callbacks_of_the_module(make_module, make_trainer, make_loader):
    early = EarlyStopping("train.losses.mse")
    summary = ModelEpochSummary(None, monitor="train.losses.mse")
    same = EarlyStopping("train.losses.total_loss")
    trainer = make_trainer(callbacks=[early, summary, same])
    of_module = EarlyStopping("train.losses.total_loss")
    trainer.fit(make_module(best_epoch_source=MONITOR, callbacks=[of_module]), make_loader(8), make_loader(8))
    assert set(callbacks_of(trainer, EarlyStopping)) == {early, of_module}
    assert [one.monitor for one in callbacks_of(trainer, ModelEpochSummary)] == [MONITOR["monitor"], summary.monitor]


def test_a_module_after_another_has_no_summary_of_that(make_module, make_trainer, make_loader, mse_loss):
    trainer = make_trainer()
    trainer.fit(make_module(best_epoch_source=MONITOR), make_loader(8), make_loader(8))
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(UserWarning, match="exists and is not empty"):
        trainer.fit(make_module(losses={"other": mse_loss}), make_loader(8), make_loader(8))
    assert not callbacks_of(trainer, ModelEpochSummary)


@pytest.mark.filterwarnings("ignore:.*barebones")
def test_a_trainer_without_logging_has_no_summary(make_module, make_trainer, make_loader):
    trainer = make_trainer(barebones=True)
    trainer.fit(make_module(best_epoch_source=MONITOR), make_loader(8), make_loader(8))
    assert not callbacks_of(trainer, ModelEpochSummary)


def test_a_copy_of_a_trained_module_holds_no_trainer(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source=MONITOR)
    make_trainer().fit(module, make_loader(8), make_loader(8))
    held = [value for one in module._attached_callbacks for value in vars(one).values()]
    assert not [one for one in held if isinstance(one, pl.Trainer)]


def test_the_learning_rate_is_monitored_once(make_module, make_trainer, make_loader, tmp_path):
    mine = LearningRateMonitor()
    trainer = make_trainer(callbacks=[mine], logger=CSVLogger(tmp_path / "logs"), log_every_n_steps=1)
    trainer.fit(make_module(model_dir=tmp_path / "run"), make_loader(8))
    assert callbacks_of(trainer, LearningRateMonitor) == [mine]


@pytest.mark.parametrize(
    ("option", "value"),
    [("save_every_n_steps", 0), ("save_every_n_steps", 2.5), ("save_every_n_steps", True), ("save_every_minutes", -1)],
)
def test_checkpoints_are_written_at_positive_intervals(tmp_path, option, value):
    with pytest.raises(ValueError, match=rf"{option}= is .* got {value}\."):
        model_default_callbacks(tmp_path, **{option: value})


def test_steps_between_checkpoints_may_be_an_integer_of_numpy(tmp_path):
    keys = [
        [one.state_key for one in model_default_callbacks(tmp_path, save_every_n_steps=steps)]
        for steps in (5, np.int64(5))
    ]
    assert keys[0] == keys[1]


@pytest.mark.filterwarnings("ignore:A checkpoint is written inside an epoch")
def test_validation_may_be_due_by_time(make_module, make_trainer, make_loader, tmp_path):
    trainer = make_trainer(val_check_interval="00:00:00:00", max_epochs=1)
    trainer.fit(make_module(best_epoch_source=MONITOR), make_loader(8), make_loader(4))
    assert {"best_epoch.ckpt", "last.ckpt"} <= names(tmp_path)
