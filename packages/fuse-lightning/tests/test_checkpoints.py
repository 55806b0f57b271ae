"""What is written to the run folder, when, and how safely."""

import errno
import io
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file
from torch import nn

from fuse_lightning import AtomicCheckpointIO, ModelEpochSummary, model_default_callbacks
from fuse_lightning.checkpoints.atomic_file import replace_file
from fuse_models import ModelEnsemble, ModelWrapSeqToDict

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


def test_callbacks_of_the_trainer_stay_beside_those_of_the_module_that_do_something_else(
    make_module, make_trainer, make_loader
):
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


def test_hyperparameters_are_saved_if_asked_for(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_hyperparameters_kwargs={"ignore": ["model", "losses", "optimizers_and_lr_schs"]})
    assert module.hparams["on_nonfinite"] == "raise"


# ------------------------------------------------------------------------------------------------------ the saved model


def test_the_best_epochs_model_is_saved_as_tensors_and_a_description(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(
        best_epoch_source=MONITOR,
        save_model=True,
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=3.0),  # diverges
    )
    make_trainer(max_epochs=3).fit(module, make_loader(8), make_loader(8))
    best = torch.load(tmp_path / "best_epoch.ckpt", weights_only=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert best["epoch"] == 0
    assert {f"model.{key}" for key in saved} == set(best["state_dict"])
    assert all(torch.equal(saved[key], best["state_dict"][f"model.{key}"]) for key in saved)
    assert not torch.equal(saved["model.weight"], module.model.model.weight)
    text = (tmp_path / "model.md").read_text()
    assert "They are of the best epoch: validation.losses.mse was" in text
    assert "| `model.weight` | (1, 3) | float32 |" in text
    assert "- Reads: `data.x`" in text


def test_without_a_best_epoch_the_last_ones_model_is_saved(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_model=True)
    make_trainer(max_epochs=2).fit(module, make_loader(8))
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["model.weight"], module.model.model.weight)
    assert "They are of the last epoch, 1." in (tmp_path / "model.md").read_text()


def test_tied_weights_are_saved_under_each_name(make_module, make_trainer, make_loader, tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    net[1].weight = net[0].weight
    model = ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"])
    module = make_module(model=model, save_model=True)
    make_trainer().fit(module, make_loader(8))
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))  # strict: no key is missing


def test_a_compiled_model_is_saved_with_the_keys_of_the_model(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(save_model=True)
    module.model.model = torch.compile(module.model.model, backend="eager")
    make_trainer().fit(module, make_loader(8))
    assert set(load_file(tmp_path / "model.safetensors")) == {"model.weight", "model.bias"}


def test_what_safetensors_cannot_hold_is_refused_at_construction(make_module):
    class WithText(nn.Module):
        def get_extra_state(self):
            return "text"

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"save_model writes tensors only.*'_extra_state'"):
        make_module(model=WithText(), save_model=True)


# --------------------------------------------------------------------------------------------------- safe reads, writes


def test_a_full_disk_leaves_the_previous_checkpoint_and_says_so(tmp_path, small_files):
    path = tmp_path / "last.ckpt"
    checkpoints = AtomicCheckpointIO()
    checkpoints.save_checkpoint({"epoch": 1}, path)
    message = r"last\.ckpt could not be written: File too large\. The previous one is intact\. Make room"
    with pytest.raises(OSError, match=message) as info:
        checkpoints.save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, path)
    assert info.value.errno == errno.EFBIG
    assert checkpoints.load_checkpoint(path) == {"epoch": 1}
    assert names(tmp_path) == {"last.ckpt"}


def test_a_disk_that_fills_up_while_training_leaves_the_last_epoch(
    make_module, make_trainer, make_loader, tmp_path, monkeypatch
):
    class FullDisk(io.BytesIO):
        def fileno(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    module = make_module()
    make_trainer().fit(module, make_loader(4))
    monkeypatch.setattr("pathlib.Path.open", lambda *args, **options: FullDisk())
    with pytest.raises(OSError, match=r"No space left on device\. The previous one is intact"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


class PressCtrlC(io.FileIO):
    """A file on whose writing Ctrl-C is pressed, as the terminal does it: by a signal."""

    def write(self, content):
        os.kill(os.getpid(), signal.SIGINT)
        return super().write(content)


def test_ctrl_c_while_a_checkpoint_is_written_comes_through_and_leaves_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr("pathlib.Path.open", lambda path, mode: PressCtrlC(path, "w"))
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    monkeypatch.undo()
    assert AtomicCheckpointIO().load_checkpoint(path) == {"epoch": 1}
    assert names(tmp_path) == {"last.ckpt"}


def test_a_checkpoint_that_fails_after_ctrl_c_tells_its_own_error(tmp_path):
    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("no state")

    def after_ctrl_c():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            AtomicCheckpointIO().save_checkpoint({"one": Unwritable()}, tmp_path / "last.ckpt")

    with pytest.raises(RuntimeError, match="no state"):
        after_ctrl_c()


def test_the_trainer_writes_checkpoints_so_by_itself(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    trainer.fit(make_module(), make_loader(4))
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO


def test_a_checkpoint_io_that_the_user_chose_stays(make_module, make_trainer, make_loader):
    class Mine(AtomicCheckpointIO):
        pass

    mine = Mine()
    trainer = make_trainer(plugins=[mine])
    trainer.fit(make_module(), make_loader(4))
    assert trainer.strategy.checkpoint_io is mine


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_checkpoint_with_pickled_objects_is_refused(make_module, make_trainer, make_loader, tmp_path):
    make_trainer().fit(make_module(), make_loader(4))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save(checkpoint | {"payload": nn.Linear(1, 1)}, tmp_path / "odd.ckpt")
    message = r"odd\.ckpt holds pickled Python objects \(torch\.nn.*was refused\. If you trust.*weights_only=False"
    with pytest.raises(ValueError, match=message):
        make_trainer(max_epochs=2).fit(make_module(), make_loader(4), ckpt_path=tmp_path / "odd.ckpt")
    trusted = make_trainer(max_epochs=2)
    trusted.fit(make_module(), make_loader(4), ckpt_path=tmp_path / "odd.ckpt", weights_only=False)
    assert trusted.global_step == 2


def test_what_is_no_whole_checkpoint_is_told(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    for content in (path.read_bytes()[:2000], b"", b"hello\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.ckpt cannot be read: it is cut off, damaged, or no checkpoint"):
            AtomicCheckpointIO().load_checkpoint(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with replace_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Attribute ")
def test_hyperparameters_that_no_checkpoint_may_hold_are_left_out(make_module, make_trainer, make_loader, tmp_path):
    with pytest.warns(UserWarning, match=r"hyperparameters 'model', 'losses'.* are none and were left out"):
        module = make_module(save_hyperparameters_kwargs={})
    assert module.hparams["model_dir"] == str(tmp_path)
    make_trainer().fit(module, make_loader(4))
    make_trainer(max_epochs=2).fit(make_module(), make_loader(4), ckpt_path=tmp_path / "last.ckpt")


def test_what_a_killed_run_left_beside_a_checkpoint_is_written_over(tmp_path):
    path = tmp_path / "last.ckpt"
    left = tmp_path / ".last.ckpt.part"
    left.write_bytes(b"half of it")
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    assert names(tmp_path) == {"last.ckpt"}


def test_a_link_is_replaced_and_what_it_leads_to_is_kept(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "best.ckpt")
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")
    AtomicCheckpointIO().save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    read = AtomicCheckpointIO().load_checkpoint
    assert (read(tmp_path / "best.ckpt"), read(tmp_path / "last.ckpt")) == ({"epoch": 1}, {"epoch": 2})


@pytest.mark.parametrize("weights", ["model.safetensors", "best_epoch.ckpt"])
def test_an_ensemble_reads_the_folders_of_runs(make_module, make_trainer, make_loader, tmp_path, weights):
    def make_model():
        return ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"])

    folders = [tmp_path / "a", tmp_path / "b"]
    modules = {one: make_module(model_dir=one, save_model=True, best_epoch_source=MONITOR) for one in folders}
    for offset, module in enumerate(modules.values()):
        make_trainer().fit(module, make_loader(8, offset=offset), make_loader(4, offset=offset))
    ensemble = ModelEnsemble.from_directories(folders, make_model, weights, prediction_keys={"model.y": "values"})
    batch = next(iter(make_loader(4)))
    expected = torch.stack([module.model(batch.copy())["model.y"] for module in modules.values()])
    assert not torch.equal(*expected)
    torch.testing.assert_close(ensemble(batch.copy())["model.y_ensemble_average"], expected.mean(0))


@pytest.mark.parametrize("content", [b"<html>not found</html>", bytes(100), b'{"a": 1}', b"some notes"])
def test_a_file_that_is_no_checkpoint_is_not_advised_to_be_trusted(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt cannot be read: .* or no checkpoint") as refusal:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert "weights_only" not in str(refusal.value)
