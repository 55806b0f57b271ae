import errno
import io
import os
import signal

import pytest
import torch
from torch import nn

from fuse_lightning import AtomicCheckpointIO


def names(folder):
    return {path.name for path in folder.iterdir()}


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


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr("pathlib.Path.open", lambda path, mode: PressCtrlC(path, "w"))
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    monkeypatch.undo()
    assert AtomicCheckpointIO().load_checkpoint(path) == {"epoch": 1}
    assert names(tmp_path) == {"last.ckpt"}


def test_a_checkpoint_that_fails_after_ctrl_c_tells_its_own_error(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no state")

    def after_ctrl_c():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            AtomicCheckpointIO().save_checkpoint({"one": torch.zeros(1)}, tmp_path / "last.ckpt")

    monkeypatch.setattr(torch, "save", fail)
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


@pytest.mark.parametrize("content", [b"<html>not found</html>", bytes(100), b'{"a": 1}', b"some notes"])
def test_a_file_that_is_no_checkpoint_is_not_advised_to_be_trusted(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt cannot be read: .* or no checkpoint") as refusal:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert "weights_only" not in str(refusal.value)
