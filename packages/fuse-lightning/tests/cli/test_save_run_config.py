"""The configuration that is kept with a run, and how Ctrl-C is answered."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied


def test_the_configuration_is_kept_as_run_and_runs_again(trained):
    kept = yaml.safe_load(Path("run/config.yaml").read_text())
    assert kept["trainer"]["max_epochs"] == 2
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    first, again = (torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"] for run in ("run", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    # Going on with the same configuration keeps one file, with another adds one.
    assert main(["fit", "--config", "again/config.yaml", "--ckpt_path", "last"]) == 0
    assert [path.name for path in sorted(Path("again").glob("config*.yaml"))] == ["config.yaml"]
    assert main(["fit", "--config", "again/config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    assert [path.name for path in sorted(Path("again").glob("config*.yaml"))] == ["config.yaml", "config_2.yaml"]


def test_a_configuration_that_is_kept_is_never_replaced(trained, run_command):
    shutil.copy("run/config.yaml", "run/config_3.yaml")
    kept = Path("run/config_3.yaml").read_text()
    for epochs in ("3", "4"):
        assert run_command("fit", "--ckpt_path", "last", "--trainer.max_epochs", epochs) == 0
    assert sorted(path.name for path in Path("run").glob("config*")) == [
        "config.yaml",
        "config_2.yaml",
        "config_3.yaml",
        "config_4.yaml",
    ]
    assert Path("run/config_3.yaml").read_text() == kept


def test_ctrl_c_leaves_a_checkpoint_and_prints_how_to_resume(edited, project, capsys, run_command):
    edited("trainer.callbacks", [{"class_path": "points.Interruption"}])
    assert run_command("fit", "--run_dir", "my run") == 130
    assert "fuse-lightning fit --config 'my run/config.yaml' --ckpt_path last" in capsys.readouterr().out
    assert torch.load("my run/last.ckpt", weights_only=True)["epoch"] == 0


def test_after_ctrl_c_a_resumed_run_resumes_with_its_latest_configuration(edited, trained, capsys, run_command):
    edited("trainer.callbacks", [{"class_path": "points.Interruption", "init_args": {"epoch": 3}}])
    assert run_command("fit", "--ckpt_path", "last", "--trainer.max_epochs", "6") == 130
    assert "fuse-lightning fit --config run/config_2.yaml --ckpt_path last" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config_2.yaml").read_text())["trainer"]["max_epochs"] == 6


def test_ctrl_c_during_prediction_says_nothing_about_training(edited, trained, capsys, run_command):
    edited("trainer.callbacks", [{"class_path": "points.Interruption"}])
    assert run_command("predict") == 130
    assert "Interrupted" not in capsys.readouterr().out


def test_ctrl_c_before_the_first_step_leaves_no_run_behind(edited, project, run_command):
    edited("trainer.callbacks", [{"class_path": "points.Interruption", "init_args": {"epoch": 0}}])
    assert run_command("fit") == 130
    assert list(Path("run").iterdir()) == []
