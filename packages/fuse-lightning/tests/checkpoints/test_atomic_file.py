import pytest

from fuse_lightning import AtomicCheckpointIO
from fuse_lightning.checkpoints.atomic_file import replace_file


def names(folder):
    return {path.name for path in folder.iterdir()}


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
