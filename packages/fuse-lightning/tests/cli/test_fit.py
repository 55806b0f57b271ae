"""`fuse-lightning fit`: a run, its folder, and a run that is continued or replaced."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied

LOSS = "model.init_args.losses.side"


METRIC = "model.init_args.validation_metrics.accuracy.init_args"


OPTIMIZER = "model.init_args.optimizers_and_lr_schs.init_args.optimizer"


def test_fit_test_predict_and_resume(trained, capsys, run_command, read_csv):
    assert {"config.yaml", "best_epoch.ckpt", "last.ckpt"} <= {path.name for path in Path("run").iterdir()}
    assert len(read_csv("run/logs/version_0/metrics.csv")) > 0

    assert run_command("test") == 0
    assert run_command("validate") == 0
    assert "test.metrics.accuracy" in capsys.readouterr().out

    assert run_command("predict") == 0
    assert "predictions: run/predictions.csv" in capsys.readouterr().out
    rows = read_csv("run/predictions.csv")
    assert [row["data.sample_id"] for row in rows] == [f"p{index}" for index in range(20)]
    assert "model.logits.side.1" in rows[0]
    assert len(list(Path("run/logs").iterdir())) == 3  # of fit, test and validate

    assert run_command("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 2


def test_a_run_is_not_overwritten_unasked(trained, capsys, run_command):
    written = Path("run/last.ckpt").read_bytes()
    assert run_command("fit") == 1
    message = capsys.readouterr().err
    assert "the run folder run holds an earlier run" in message
    assert "--ckpt_path last" in message
    assert "--overwrite" in message
    assert Path("run/last.ckpt").read_bytes() == written
    for mine in ("notes.txt", "pretrained.ckpt", "config_mine.yaml"):
        Path("run", mine).write_text("mine")
    assert run_command("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0
    assert [path.name for path in Path("run/logs").iterdir()] == ["version_0"]
    for mine in ("notes.txt", "pretrained.ckpt", "config_mine.yaml"):
        assert Path("run", mine).read_text() == "mine"
    assert "overwrite: true" not in Path("run/config.yaml").read_text()


def test_a_run_folder_may_be_below_the_home_folder(edited, project, monkeypatch, capsys, run_command):
    monkeypatch.setenv("HOME", str(project / "home"))
    edited("run_dir", "~/run")
    assert run_command("fit", "--trainer.max_epochs", "1", "--report") == 0
    written = {path.name for path in Path("home/run").iterdir()}
    assert {"config.yaml", "index.html", "last.ckpt", "result.json"} <= written
    assert not Path("~").exists()
    assert run_command("fit") == 1
    assert "home/run holds an earlier run" in capsys.readouterr().err
    assert run_command("predict") == 0
    assert Path("home/run/predictions.csv").is_file()


def test_the_page_of_a_run_goes_on_without_the_option(project, run_command):
    assert run_command("fit", "--trainer.max_epochs", "1", "--report") == 0
    assert run_command("fit", "--ckpt_path", "last") == 0
    assert run_command("test") == 0
    page = json.loads(Path("run/report.json").read_text())
    assert list(page["epochs"]) == ["0", "1"]
    assert "test.metrics.accuracy" in page["test"]
    assert run_command("fit", "--overwrite") == 0
    assert not Path("run/index.html").exists()


@pytest.mark.parametrize("mine", ["thesis.txt", "config.yaml"])
def test_a_folder_of_other_files_is_never_overwritten(project, capsys, mine, run_command):
    Path("run").mkdir()
    Path("run", mine).write_text("mine")
    assert run_command("fit", "--overwrite") == 1
    assert "no config.yaml of an earlier run" in capsys.readouterr().err
    assert Path("run", mine).read_text() == "mine"


def test_a_checkpoint_of_another_run_starts_a_run_of_its_own(trained, capsys, run_command):
    shutil.copytree("run", "other")
    written = Path("run/last.ckpt").read_bytes()
    arguments = ("--ckpt_path", "other/last.ckpt", "--trainer.max_epochs", "3")
    assert run_command("fit", *arguments) == 1
    assert "the run folder run holds an earlier run" in capsys.readouterr().err
    assert Path("run/last.ckpt").read_bytes() == written
    assert run_command("fit", *arguments, "--run_dir", "third run") == 0
    assert torch.load("third run/last.ckpt", weights_only=True)["epoch"] == 2
    assert Path("other/last.ckpt").read_bytes() == written


def test_a_run_folder_that_cannot_be_made_is_told(project, capsys, run_command):
    assert run_command("fit", "--run_dir", "run.yaml/run") == 1
    message = "error: nothing can be written to the run folder run.yaml/run: [Errno 20] Not a directory"
    assert message in capsys.readouterr().err


def test_overwriting_waits_until_nothing_is_wrong(trained, edited, capsys, run_command):
    edited(f"{LOSS}.init_args.weight", float("inf"))
    assert run_command("fit", "--overwrite") == 2
    assert Path("run/last.ckpt").exists()


def test_resuming_is_not_offered_without_a_checkpoint(trained, capsys, run_command):
    Path("run/last.ckpt").unlink()
    assert run_command("fit") == 1
    assert "earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err


def test_a_broken_link_is_not_a_checkpoint(trained, capsys, run_command):
    Path("run/last.ckpt").unlink()
    Path("run/last.ckpt").symlink_to("gone.ckpt")
    assert run_command("fit") == 1
    assert "earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err


def test_overwriting_leaves_what_a_link_leads_to(trained, run_command):
    shutil.move("run/logs", "elsewhere")
    Path("run/logs").symlink_to(Path("elsewhere").resolve())
    assert run_command("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert Path("elsewhere/version_0/metrics.csv").is_file()
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0


def test_lbfgs_with_the_closure_callback_comes_from_yaml(edited, project, run_command):
    edited(OPTIMIZER, {"class_path": "torch.optim.LBFGS", "init_args": {"lr": 0.1, "max_iter": 2}})
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["trainer"]["callbacks"] = [{"class_path": "fuse_optim.lightning.OptimizerClosureCallback"}]
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert run_command("fit", "--trainer.max_epochs", "1", "--trainer.accumulate_grad_batches", "2") == 0


FAILURES = {
    "a value that a class refuses": (
        f"{LOSS}.init_args.weight",
        float("inf"),
        r"LossDefault\(weight=\) is a finite number, got inf",
    ),
    "a class of the user's that fails": (
        "data.init_args.test",
        {"class_path": "points.Broken"},
        r"points.Broken cannot be made: 'no such file'\nKeyError, raised here:\n.*points.py\", line \d+, in __init__",
    ),
    "an empty dataset": (
        "data.init_args.train.init_args.count",
        0,
        r"DataModuleDefault\(train=\) needs samples",
    ),
    "a graphics card that is not there": (
        "trainer.accelerator",
        "tpu",
        r"trainer.accelerator is 'tpu', but: .*--trainer.accelerator auto",
    ),
    "an unknown accelerator": ("trainer.accelerator", "gpuu", r"invalid accelerator name: `accelerator='gpuu'`"),
    "devices that are no number": (
        "trainer.devices",
        "two",
        r"^error: .* should be an int > 0.\n\(--traceback shows the whole traceback\)$",
    ),
    "a word that a callback refuses": (
        "trainer.callbacks",
        [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "x", "mode": "minn"}}],
        r"`mode` can be .*got minn",
    ),
    "a metric's key that nothing writes": (
        f"{METRIC}.pred",
        "model.logits.sides",
        r"reads 'model.logits.sides', which nothing before it provides. Nearest keys: 'model.logits.side'",
    ),
    "a monitor that is never logged": (
        "model.init_args.best_epoch_source.monitor",
        "validation.losses.total",
        r"monitors 'validation.losses.total', which is never logged. Did you mean 'validation.losses.total_loss'\?",
    ),
}


@pytest.mark.parametrize(("key", "value", "message"), FAILURES.values(), ids=FAILURES)
def test_what_cannot_run_is_told_before_training(edited, capsys, key, value, message, run_command):
    edited(key, value)
    fails_outside = value in ({"class_path": "points.Broken"}, "tpu", "validation.losses.total")
    assert run_command("fit") == (1 if fails_outside else 2)
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert "Traceback" not in printed
    assert not list(Path().glob("run/*"))  # so that it runs again, mended, without --overwrite


def test_a_mistake_in_the_users_own_code_shows_its_traceback(edited, project, capsys, run_command):
    (project / "points.py").write_text(Path("points.py").read_text().replace("x = self.x[index]", "x = self.y[index]"))
    assert run_command("fit") == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "has no attribute 'y'" in printed


def test_the_option_traceback_shows_one(project, capsys, run_command):
    assert run_command("test", "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err
