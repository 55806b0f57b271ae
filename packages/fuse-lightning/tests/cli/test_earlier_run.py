"""The earlier run that `--overwrite` replaces, and what becomes of it when a process is killed."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fuse_lightning.cli.earlier_run import RemoveEarlierRun, bring_back, remove_earlier_run, set_aside

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied

METRIC = "model.init_args.validation_metrics.accuracy.init_args"


def files_of(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_run_is_replaced_when_the_new_one_has_taken_a_step(trained, edited, capsys, run_command):
    before = files_of("run")
    edited(f"{METRIC}.pred", "model.logits.sides")  # found with the first batch
    assert run_command("fit", "--overwrite") == 2
    assert "Nearest keys: 'model.logits.side'" in capsys.readouterr().err
    assert files_of("run") == before
    edited(f"{METRIC}.pred", "model.logits.side")
    assert run_command("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0
    assert not Path("run/.earlier_run").exists()


def test_an_earlier_run_survives_a_kill_of_the_run_that_was_to_replace_it(trained, edited, capsys, run_command):
    before = files_of("run")
    set_aside(Path("run"))
    Path("run/config.yaml").write_bytes(before[Path("run/config.yaml")])  # killed here, before its first step
    assert run_command("fit") == 1
    assert "holds an earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert run_command("fit", "--overwrite") == 2
    assert files_of("run") == before


def test_a_training_without_a_batch_replaces_nothing(trained, run_command):
    before = files_of("run")
    assert run_command("fit", "--overwrite", "--trainer.max_epochs", "0") == 0
    assert files_of("run") == before


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_trial_run_replaces_nothing(trained, run_command, options):
    before = files_of("run")
    assert run_command("fit", "--trainer.fast_dev_run", "true", *options) == 0
    assert files_of("run") == before


@pytest.fixture
def stops_in_the_middle():
    """Ends the moves of files at the second one, by the given exception, and once only."""
    patch = pytest.MonkeyPatch()
    move = shutil.move

    def stop(error):
        calls = []

        def move_once(path, place):
            calls.append(path)
            if len(calls) == 2:
                patch.undo()
                raise error
            move(path, place)

        patch.setattr(shutil, "move", move_once)

    yield stop
    patch.undo()


@pytest.mark.parametrize("moves", [set_aside, bring_back])
def test_a_run_survives_a_kill_while_its_files_are_moved(trained, edited, stops_in_the_middle, moves, run_command):
    before = files_of("run")
    if moves is bring_back:
        set_aside(Path("run"))
    stops_in_the_middle(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        moves(Path("run"))
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert run_command("fit", "--overwrite") == 2
    assert files_of("run") == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (PermissionError("logs"), 1)])
def test_a_run_that_cannot_be_set_aside_stays(trained, stops_in_the_middle, capsys, error, code, run_command):
    before = files_of("run")
    stops_in_the_middle(error)
    assert run_command("fit", "--overwrite") == code
    assert ("cannot be set aside: logs. Choose another --run_dir." in capsys.readouterr().err) == (code == 1)
    assert files_of("run") == before


def test_a_run_that_is_half_removed_is_not_brought_back(trained, monkeypatch):
    set_aside(Path("run"))
    Path("run/last.ckpt").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            remove_earlier_run(Path("run"))
    bring_back(Path("run"))
    assert Path("run/last.ckpt").read_text() == "new"
    remove_earlier_run(Path("run"))
    assert [path.name for path in Path("run").iterdir()] == ["last.ckpt"]


def test_a_run_is_removed_by_one_process_and_for_new_steps_only(project):
    set_aside(project)
    callback = RemoveEarlierRun(project)
    callback.on_train_start(SimpleNamespace(global_step=8), None)
    callback.on_train_batch_end(SimpleNamespace(global_step=8, is_global_zero=True))  # the gradients are accumulated
    callback.on_train_batch_end(SimpleNamespace(global_step=9, is_global_zero=False))
    assert Path(".earlier_run").exists()
    callback.on_train_batch_end(SimpleNamespace(global_step=9, is_global_zero=True))
    assert not Path(".earlier_run").exists()


def test_a_run_that_was_killed_before_it_wrote_a_file_is_not_in_the_way(project, run_command):
    Path("run").mkdir()
    set_aside(Path("run"))
    assert run_command("fit", "--trainer.max_epochs", "1") == 0
    assert not Path("run/.earlier_run").exists()
