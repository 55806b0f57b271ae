"""`fuse-lightning validate` and `test`: which checkpoint they take."""

import logging
from pathlib import Path

import pytest
import torch

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied


def test_evaluation_takes_the_best_checkpoint_unless_told_otherwise(trained, caplog, run_command, monkeypatch):
    caplog.set_level("INFO")
    # Lightning hands its records on only where something listened when it was imported.
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "propagate", True)
    for arguments, loaded in (([], "best_epoch.ckpt"), (["--ckpt_path", "last"], "last.ckpt")):
        caplog.clear()
        assert run_command("test", *arguments) == 0
        assert f"weights from the checkpoint at run/{loaded}" in caplog.text
    caplog.clear()
    assert run_command("test", "--ckpt_path", "untrained") == 0
    assert "weights from the checkpoint" not in caplog.text
    assert "Tip" not in caplog.text


def test_settings_come_from_the_configuration_and_not_from_a_checkpoint(edited, project, run_command, read_csv):
    parts = ["model", "losses", "validation_metrics", "test_metrics", "optimizers_and_lr_schs"]
    edited("model.init_args.save_hyperparameters_kwargs", {"ignore": parts})
    assert run_command("fit", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["hyper_parameters"]["tensorboard_sep"] == "."
    slash = ("--model.init_args.tensorboard_sep", "/")
    assert run_command("test", "--ckpt_path", "run/last.ckpt", *slash) == 0
    assert "test/losses/side" in read_csv("run/logs/version_1/metrics.csv")[0]


def test_a_checkpoint_that_does_not_fit_or_is_cut_off_is_told(trained, capsys, run_command):
    layer = "model.init_args.model.init_args.model.init_args.out_features"
    assert run_command("test", f"--{layer}", "3") == 1
    assert "error: the checkpoint does not fit the model in the configuration. " in capsys.readouterr().err
    Path("cut.ckpt").write_bytes(Path("run/last.ckpt").read_bytes()[:2000])
    assert run_command("test", "--ckpt_path", "cut.ckpt") == 1
    assert "error: The checkpoint cut.ckpt cannot be read" in capsys.readouterr().err
    assert run_command("fit", "--ckpt_path", "cut.ckpt", "--run_dir", "new") == 1
    assert list(Path("new").iterdir()) == []


def test_several_best_checkpoints_must_be_told_apart(edited, project, capsys, run_command):
    monitors = ["validation.losses.total_loss", "validation.metrics.accuracy"]
    edited("model.init_args.best_epoch_source", [{"monitor": monitor} for monitor in monitors])
    assert run_command("fit", "--trainer.max_epochs", "1") == 0
    assert run_command("test") == 1
    printed = capsys.readouterr().err
    assert "several checkpoints are the best; choose one with --ckpt_path: " in printed
    for monitor in monitors:
        assert f"run/best_epoch_{monitor}.ckpt" in printed
    assert run_command("test", "--ckpt_path", f"run/best_epoch_{monitors[0]}.ckpt") == 0


def test_a_checkpoint_of_pickled_objects_is_refused(project, capsys, run_command):
    torch.save({"state_dict": {}, "anything": Path}, "bad.ckpt")
    assert run_command("test", "--ckpt_path", "bad.ckpt") == 1
    assert "holds pickled" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_told(project, capsys, run_command):
    assert run_command("test") == 1
    assert "Train first" in capsys.readouterr().err
    assert run_command("fit", "--ckpt_path", "last") == 1
    assert "the run folder run has no checkpoint called last*.ckpt" in capsys.readouterr().err
    assert run_command("test", "--ckpt_path", "other.ckpt") == 1
    assert "other.ckpt: there is no such file" in capsys.readouterr().err
