"""The commands on a small configuration of the user's own."""

import copy
import csv
import os
import re
import runpy
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from fuse_lightning.cli.earlier_run import RemoveEarlierRun, bring_back, remove_earlier_run, set_aside
from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed:UserWarning",  # where a run folder was copied
)

# What the user has in the folder where the command runs.
POINTS = '''
import os, signal
import pytorch_lightning as pl
import torch
from fuse_core import NDict
from torch.utils.data import Dataset

class Points(Dataset):
    """Points, and whether their coordinates add up to more than zero."""
    def __init__(self, count: int):
        self.x = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        x = self.x[index]
        return NDict({"data.sample_id": f"p{index}", "data.x": x, "data.label": (x.sum() > 0).long()})

class Broken(Dataset):
    def __init__(self):
        raise KeyError("no such file")

class Interruption(pl.Callback):
    """Presses Ctrl-C."""
    def __init__(self, epoch: int = 1):
        self.epoch = epoch
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)
    def on_predict_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGINT)
'''

OWN = """
import torch.nn.functional as F
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = ModelWrapSeqToDict(
            model=torch.nn.Linear(5, 2), model_inputs=["data.x"], model_outputs=["model.logits.side"]
        )
        loss = LossDefault(pred="model.logits.side", target="data.label", callable=F.cross_entropy)
        self.losses = torch.nn.ModuleDict({"side": loss})
        self.validation_losses = torch.nn.ModuleDict({"other": loss})
        self.test_losses = self.losses
"""

LOADERS = """
from fuse_core import collate
from torch.utils.data import DataLoader

class TwoLoaders(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Points(8), collate_fn=collate)
    def val_dataloader(self):
        return {"far": self.train_dataloader(), "near": self.train_dataloader()}
"""

ALONE = """
from torch.utils.data import DataLoader

class Alone(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def train_dataloader(self):
        return DataLoader(torch.ones(4, 1))
    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""

CONFIGURATION = """
run_dir: run
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: fuse_lightning.LightningModuleDefault
  init_args:
    model:
      class_path: fuse_models.ModelWrapSeqToDict
      init_args:
        model: {class_path: torch.nn.Linear, init_args: {in_features: 5, out_features: 2}}
        model_inputs: [data.x]
        model_outputs: [model.logits.side]
    losses:
      side:
        class_path: fuse_losses.LossDefault
        init_args: {pred: model.logits.side, target: data.label, callable: torch.nn.functional.cross_entropy}
    validation_metrics: &metrics
      accuracy:
        class_path: fuse_lightning.MetricDefault
        init_args:
          pred: model.logits.side
          target: data.label
          metric: {class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {num_classes: 2}}
    test_metrics: *metrics
    optimizers_and_lr_schs:
      class_path: fuse_lightning.ConfigureOptimizers
      init_args:
        optimizer:
          class_path: fuse_optim.SAM
          init_args:
            rho: 0.05
            base_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0e-1, momentum: 0.9}}
        lr_scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 4}}
    best_epoch_source: {monitor: validation.losses.total_loss, mode: min}
    prediction_keys: [model.logits.side, data.label]
data:
  class_path: fuse_lightning.DataModuleDefault
  init_args:
    train: {class_path: points.Points, init_args: {count: 64}}
    validation: {class_path: points.Points, init_args: {count: 40}}
    test: {class_path: points.Points, init_args: {count: 20}}
"""

LOSS = "model.init_args.losses.side"
OPTIMIZER = "model.init_args.optimizers_and_lr_schs.init_args.optimizer"
METRIC = "model.init_args.validation_metrics.accuracy.init_args"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the user's module, where the command runs."""
    (tmp_path / "points.py").write_text(POINTS)
    (tmp_path / "run.yaml").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "points", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """The run folder after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "points.py").write_text(POINTS)
    (folder / "run.yaml").write_text(CONFIGURATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        assert fuse_lightning("fit") == 0
    return folder / "run"


@pytest.fixture
def trained(project, trained_run):
    """The project after training."""
    shutil.copytree(trained_run, project / "run")
    return project


@pytest.fixture
def edited(project):
    """Writes the configuration with one key changed, or removed for None; returns the key's place in it."""

    def edit(key, value):
        configuration = copy.deepcopy(yaml.safe_load(CONFIGURATION))
        *path, last = key.split(".")
        node = configuration
        for part in path:
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value
        (project / "run.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))

    return edit


def fuse_lightning(*arguments):
    return main([*arguments[:1], "--config", "run.yaml", *arguments[1:]])


def read_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------ the whole round


def test_fit_test_predict_and_resume(trained, capsys):
    assert {"config.yaml", "best_epoch.ckpt", "last.ckpt"} <= {path.name for path in Path("run").iterdir()}
    assert len(read_csv("run/logs/version_0/metrics.csv")) > 0

    assert fuse_lightning("test") == 0
    assert fuse_lightning("validate") == 0
    assert "test.metrics.accuracy" in capsys.readouterr().out

    assert fuse_lightning("predict") == 0
    assert "predictions: run/predictions.csv" in capsys.readouterr().out
    rows = read_csv("run/predictions.csv")
    assert [row["data.sample_id"] for row in rows] == [f"p{index}" for index in range(20)]
    assert "model.logits.side.1" in rows[0]
    assert len(list(Path("run/logs").iterdir())) == 3  # of fit, test and validate

    assert fuse_lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 2


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


def test_evaluation_takes_the_best_checkpoint_unless_told_otherwise(trained, caplog):
    caplog.set_level("INFO")
    for arguments, loaded in (([], "best_epoch.ckpt"), (["--ckpt_path", "last"], "last.ckpt")):
        caplog.clear()
        assert fuse_lightning("test", *arguments) == 0
        assert f"weights from the checkpoint at run/{loaded}" in caplog.text
    caplog.clear()
    assert fuse_lightning("test", "--ckpt_path", "untrained") == 0
    assert "weights from the checkpoint" not in caplog.text
    assert "Tip" not in caplog.text


def test_settings_come_from_the_configuration_and_not_from_a_checkpoint(edited, project):
    parts = ["model", "losses", "validation_metrics", "test_metrics", "optimizers_and_lr_schs"]
    edited("model.init_args.save_hyperparameters_kwargs", {"ignore": parts})
    assert fuse_lightning("fit", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["hyper_parameters"]["tensorboard_sep"] == "."
    slash = ("--model.init_args.tensorboard_sep", "/")
    assert fuse_lightning("test", "--ckpt_path", "run/last.ckpt", *slash) == 0
    assert "test/losses/side" in read_csv("run/logs/version_1/metrics.csv")[0]


def test_a_run_is_not_overwritten_unasked(trained, capsys):
    written = Path("run/last.ckpt").read_bytes()
    assert fuse_lightning("fit") == 1
    message = capsys.readouterr().err
    assert "the run folder run holds an earlier run" in message
    assert "--ckpt_path last" in message
    assert "--overwrite" in message
    assert Path("run/last.ckpt").read_bytes() == written
    for mine in ("notes.txt", "pretrained.ckpt", "config_mine.yaml"):
        Path("run", mine).write_text("mine")
    assert fuse_lightning("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0
    assert [path.name for path in Path("run/logs").iterdir()] == ["version_0"]
    for mine in ("notes.txt", "pretrained.ckpt", "config_mine.yaml"):
        assert Path("run", mine).read_text() == "mine"
    assert "overwrite: true" not in Path("run/config.yaml").read_text()


@pytest.mark.parametrize("mine", ["thesis.txt", "config.yaml"])
def test_a_folder_of_other_files_is_never_overwritten(project, capsys, mine):
    Path("run").mkdir()
    Path("run", mine).write_text("mine")
    assert fuse_lightning("fit", "--overwrite") == 1
    assert "no config.yaml of an earlier run" in capsys.readouterr().err
    assert Path("run", mine).read_text() == "mine"


def test_a_checkpoint_of_another_run_starts_a_run_of_its_own(trained, capsys):
    shutil.copytree("run", "other")
    written = Path("run/last.ckpt").read_bytes()
    arguments = ("--ckpt_path", "other/last.ckpt", "--trainer.max_epochs", "3")
    assert fuse_lightning("fit", *arguments) == 1
    assert "the run folder run holds an earlier run" in capsys.readouterr().err
    assert Path("run/last.ckpt").read_bytes() == written
    assert fuse_lightning("fit", *arguments, "--run_dir", "third run") == 0
    assert torch.load("third run/last.ckpt", weights_only=True)["epoch"] == 2
    assert Path("other/last.ckpt").read_bytes() == written


def test_a_checkpoint_that_does_not_fit_or_is_cut_off_is_told(trained, capsys):
    layer = "model.init_args.model.init_args.model.init_args.out_features"
    assert fuse_lightning("test", f"--{layer}", "3") == 1
    assert "error: the checkpoint is not of the model that the configuration describes. " in capsys.readouterr().err
    Path("cut.ckpt").write_bytes(Path("run/last.ckpt").read_bytes()[:2000])
    assert fuse_lightning("test", "--ckpt_path", "cut.ckpt") == 1
    assert "error: The checkpoint cut.ckpt cannot be read" in capsys.readouterr().err
    assert fuse_lightning("fit", "--ckpt_path", "cut.ckpt", "--run_dir", "new") == 1
    assert list(Path("new").iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_told(project, capsys):
    assert fuse_lightning("fit", "--run_dir", "run.yaml/run") == 1
    message = "error: nothing can be written to the run folder run.yaml/run: [Errno 20] Not a directory"
    assert message in capsys.readouterr().err


def test_overwriting_waits_until_nothing_is_wrong(trained, edited, capsys):
    edited(f"{LOSS}.init_args.weight", float("inf"))
    assert fuse_lightning("fit", "--overwrite") == 1
    assert Path("run/last.ckpt").exists()


def files_of(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_run_is_replaced_when_the_new_one_has_taken_a_step(trained, edited, capsys):
    before = files_of("run")
    edited(f"{METRIC}.pred", "model.logits.sides")  # found with the first batch
    assert fuse_lightning("fit", "--overwrite") == 1
    assert "Nearest keys: 'model.logits.side'" in capsys.readouterr().err
    assert files_of("run") == before
    edited(f"{METRIC}.pred", "model.logits.side")
    assert fuse_lightning("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0
    assert not Path("run/.earlier_run").exists()


def test_a_run_that_another_was_to_replace_outlives_that_it_was_killed(trained, edited, capsys):
    before = files_of("run")
    set_aside(Path("run"))
    Path("run/config.yaml").write_bytes(before[Path("run/config.yaml")])  # killed here, before its first step
    assert fuse_lightning("fit") == 1
    assert "holds an earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert fuse_lightning("fit", "--overwrite") == 1
    assert files_of("run") == before


def test_a_training_without_a_batch_replaces_nothing(trained):
    before = files_of("run")
    assert fuse_lightning("fit", "--overwrite", "--trainer.max_epochs", "0") == 0
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
def test_a_run_outlives_that_the_process_was_killed_while_its_files_were_moved(
    trained, edited, stops_in_the_middle, moves
):
    before = files_of("run")
    if moves is bring_back:
        set_aside(Path("run"))
    stops_in_the_middle(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        moves(Path("run"))
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert fuse_lightning("fit", "--overwrite") == 1
    assert files_of("run") == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (PermissionError("logs"), 1)])
def test_a_run_that_cannot_be_set_aside_stays(trained, stops_in_the_middle, capsys, error, code):
    before = files_of("run")
    stops_in_the_middle(error)
    assert fuse_lightning("fit", "--overwrite") == code
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


def test_a_run_is_removed_by_one_process_and_not_for_the_steps_of_an_earlier_one(project):
    set_aside(project)
    callback = RemoveEarlierRun(project)
    callback.on_train_start(SimpleNamespace(global_step=8), None)
    callback.on_train_batch_end(SimpleNamespace(global_step=8, is_global_zero=True))  # the gradients are accumulated
    callback.on_train_batch_end(SimpleNamespace(global_step=9, is_global_zero=False))
    assert Path(".earlier_run").exists()
    callback.on_train_batch_end(SimpleNamespace(global_step=9, is_global_zero=True))
    assert not Path(".earlier_run").exists()


def test_a_run_that_was_killed_before_it_wrote_a_file_is_not_in_the_way(project):
    Path("run").mkdir()
    set_aside(Path("run"))
    assert fuse_lightning("fit", "--trainer.max_epochs", "1") == 0
    assert not Path("run/.earlier_run").exists()


def test_a_link_to_a_checkpoint_that_is_gone_is_not_one(trained, capsys):
    Path("run/last.ckpt").unlink()
    Path("run/last.ckpt").symlink_to("gone.ckpt")
    assert fuse_lightning("fit") == 1
    assert "earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err


def test_predictions_are_not_overwritten_unasked(trained, capsys):
    Path("run/predictions.csv").write_text("mine")
    assert fuse_lightning("predict") == 1
    assert "run/predictions.csv is there already" in capsys.readouterr().err
    assert fuse_lightning("predict", "--overwrite") == 0


def test_lbfgs_with_the_closure_callback_comes_from_yaml(edited, project):
    edited(OPTIMIZER, {"class_path": "torch.optim.LBFGS", "init_args": {"lr": 0.1, "max_iter": 2}})
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["trainer"]["callbacks"] = [{"class_path": "fuse_optim.lightning.OptimizerClosureCallback"}]
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert fuse_lightning("fit", "--trainer.max_epochs", "1", "--trainer.accumulate_grad_batches", "2") == 0


@pytest.fixture
def ctrl_c_handler():
    """Lightning changes what Ctrl-C does, and does not change it back when it was pressed."""
    previous = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("ctrl_c_handler")
def test_ctrl_c_leaves_a_checkpoint_and_tells_how_to_go_on(edited, project, capsys):
    edited("trainer.callbacks", [{"class_path": "points.Interruption"}])
    assert fuse_lightning("fit", "--run_dir", "my run") == 130
    assert "fuse-lightning fit --config 'my run/config.yaml' --ckpt_path last" in capsys.readouterr().out
    assert torch.load("my run/last.ckpt", weights_only=True)["epoch"] == 0


@pytest.mark.usefixtures("ctrl_c_handler")
def test_a_continued_run_goes_on_after_ctrl_c_with_what_it_was_continued_with(edited, trained, capsys):
    edited("trainer.callbacks", [{"class_path": "points.Interruption", "init_args": {"epoch": 3}}])
    assert fuse_lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", "6") == 130
    assert "fuse-lightning fit --config run/config_2.yaml --ckpt_path last" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config_2.yaml").read_text())["trainer"]["max_epochs"] == 6


@pytest.mark.usefixtures("ctrl_c_handler")
def test_ctrl_c_in_a_prediction_does_not_speak_of_training(edited, trained, capsys):
    edited("trainer.callbacks", [{"class_path": "points.Interruption"}])
    assert fuse_lightning("predict") == 130
    assert "Interrupted" not in capsys.readouterr().out


@pytest.mark.usefixtures("ctrl_c_handler")
def test_ctrl_c_before_the_first_step_leaves_no_run_behind(edited, project):
    edited("trainer.callbacks", [{"class_path": "points.Interruption", "init_args": {"epoch": 0}}])
    assert fuse_lightning("fit") == 130
    assert list(Path("run").iterdir()) == []


def test_a_run_without_a_checkpoint_is_not_said_to_go_on(trained, capsys):
    Path("run/last.ckpt").unlink()
    assert fuse_lightning("fit") == 1
    assert "earlier run. Choose another --run_dir, or replace it with --overwrite." in capsys.readouterr().err


def test_which_of_several_best_checkpoints_is_asked(edited, project, capsys):
    monitors = ["validation.losses.total_loss", "validation.metrics.accuracy"]
    edited("model.init_args.best_epoch_source", [{"monitor": monitor} for monitor in monitors])
    assert fuse_lightning("fit", "--trainer.max_epochs", "1") == 0
    assert fuse_lightning("test") == 1
    printed = capsys.readouterr().err
    assert "several checkpoints are the best; choose one with --ckpt_path: " in printed
    for monitor in monitors:
        assert f"run/best_epoch_{monitor}.ckpt" in printed
    assert fuse_lightning("test", "--ckpt_path", f"run/best_epoch_{monitors[0]}.ckpt") == 0


def test_a_configuration_that_is_kept_is_never_replaced(trained):
    shutil.copy("run/config.yaml", "run/config_3.yaml")
    kept = Path("run/config_3.yaml").read_text()
    for epochs in ("3", "4"):
        assert fuse_lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", epochs) == 0
    assert sorted(path.name for path in Path("run").glob("config*")) == [
        "config.yaml",
        "config_2.yaml",
        "config_3.yaml",
        "config_4.yaml",
    ]
    assert Path("run/config_3.yaml").read_text() == kept


def test_overwriting_leaves_what_a_link_leads_to(trained):
    shutil.move("run/logs", "elsewhere")
    Path("run/logs").symlink_to(Path("elsewhere").resolve())
    assert fuse_lightning("fit", "--overwrite", "--trainer.max_epochs", "1") == 0
    assert Path("elsewhere/version_0/metrics.csv").is_file()
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 0


def test_a_checkpoint_of_pickled_objects_is_refused(project, capsys):
    torch.save({"state_dict": {}, "anything": Path}, "bad.ckpt")
    assert fuse_lightning("test", "--ckpt_path", "bad.ckpt") == 1
    assert "holds pickled" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- the wiring


def test_wiring_prints_the_table_and_the_drawing(project, capsys):
    assert fuse_lightning("wiring", "--output", "docs/wiring.md") == 0
    printed = capsys.readouterr().out
    assert "model.logits.side  ModelWrapSeqToDict 'model'  LossDefault 'losses.side'" in printed
    assert [title for title in ("train", "validation, test", "predict") if f"\n{title}\n\nkey " in f"\n{printed}"] == [
        "train",
        "validation, test",
        "predict",
    ]
    assert printed.count("flowchart LR") == 3
    written = Path("docs/wiring.md").read_text()
    drawings = re.findall(r"## (.*)\n\n```\nkey[^`]*```\n\n```mermaid\n(flowchart LR[^`]*)```\n", written)
    assert [title for title, _ in drawings] == ["train", "validation, test", "predict"]
    assert ["MetricDefault" in drawing for _, drawing in drawings] == [False, True, False]
    assert not Path("run").exists()


def test_wiring_follows_a_module_of_ones_own_that_names_its_parts_likewise(edited, project, capsys):
    edited("model", {"class_path": "points.Own"})
    Path("points.py").write_text(f"{POINTS}\n{OWN}")
    assert fuse_lightning("wiring") == 0
    printed = capsys.readouterr().out
    assert "train, test\n\nkey" in printed
    assert "LossDefault 'losses.side'" in printed
    assert "validation\n\nkey" in printed
    assert "LossDefault 'losses.other'" in printed


def test_wiring_tells_several_loaders_apart(edited, project, capsys):
    Path("points.py").write_text(f"{POINTS}\n{LOADERS}")
    metrics = yaml.safe_load(CONFIGURATION)["model"]["init_args"]["validation_metrics"]
    edited("model.init_args.validation_metrics", {"near": metrics, "far": {}})
    configuration = yaml.safe_load(Path("run.yaml").read_text())
    configuration["data"] = {"class_path": "points.TwoLoaders"}
    Path("run.yaml").write_text(yaml.safe_dump(configuration))
    assert fuse_lightning("wiring") == 0
    printed = capsys.readouterr().out
    assert "train, validation.far\n\nkey" in printed
    assert "validation.near\n\nkey" in printed


def test_wiring_fails_where_a_key_is_missing(edited, capsys):
    edited(f"{METRIC}.pred", "model.logits.sides")
    assert fuse_lightning("wiring") == 1
    message = capsys.readouterr().err
    assert "MetricDefault 'metrics.accuracy' reads 'model.logits.sides'" in message
    assert "Nearest keys: 'model.logits.side' (written by ModelWrapSeqToDict 'model')" in message


def test_wiring_checks_the_prediction_keys(edited, capsys):
    edited("model.init_args.prediction_keys", ["model.output.side"])
    assert fuse_lightning("wiring") == 1
    assert "reads 'model.output.side'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ bad input

MISTAKES = {
    "an unknown argument": (
        f"{LOSS}.init_args.taget",
        "data.label",
        (
            r"run.yaml:\d+: model.init_args.losses.side.init_args.taget: "
            r"fuse_losses.LossDefault has no argument 'taget'. Did you mean 'target'\?"
        ),
    ),
    "an unknown argument that holds nothing": (
        "model.init_args.loses",
        {},
        r"model.init_args.loses: .*Did you mean 'losses'\?",
    ),
    "an unknown key": ("modell", {}, r"run.yaml:\d+: modell: there is no such key. Did you mean 'model'\?"),
    "an unknown key of the trainer": (
        "trainer.max_epoch",
        3,
        r"trainer.max_epoch: there is no such key. Did you mean 'max_epochs'\?",
    ),
    "a wrong class": (
        f"{LOSS}.class_path",
        "fuse_losses.LossDefualt",
        (
            r"losses.side.class_path: 'fuse_losses.LossDefualt': fuse_losses has no 'LossDefualt'. "
            r"Did you mean 'LossDefault'\?"
        ),
    ),
    "a class path that is misspelt": (
        LOSS,
        {"clas_path": "fuse_losses.LossDefault", "init_args": {}},
        r"losses.side.clas_path: there is no such key. Did you mean 'class_path'\?",
    ),
    "a mistake below an anchor": (
        f"{METRIC}.metric.init_args.averge",
        "micro",
        r"^error: run.yaml:\d+: .*MulticlassAccuracy has no argument 'averge'. Did you mean 'average'\?",
    ),
    "a class by a name alone that is misspelt": (
        "trainer.callbacks",
        [{"class_path": "EarlyStoping", "init_args": {"monitor": "x"}}],
        r"callbacks\[0\].class_path: 'EarlyStoping': there is no such class. Did you mean 'EarlyStopping'\?",
    ),
    "an argument of a class by its name alone": (
        "trainer.callbacks",
        [{"class_path": "EarlyStopping", "init_args": {"moniter": "x"}}],
        r"EarlyStopping has no argument 'moniter'. Did you mean 'monitor'\?",
    ),
    "a wrong package": (
        f"{LOSS}.class_path",
        "fuse_loses.LossDefault",
        r"there is no module 'fuse_loses'. Did you mean 'fuse_losses'\?",
    ),
    "a class of another kind": (
        f"{METRIC}.metric",
        {"class_path": "torch.nn.ReLU"},
        r"accuracy.init_args.metric: it takes Metric or MetricCollection, which torch.nn.ReLU is not",
    ),
    "a function that is not there": (
        f"{LOSS}.init_args.callable",
        "torch.nn.functional.cross_entrpy",
        r"torch.nn.functional has no 'cross_entrpy'. Did you mean 'cross_entropy'\?",
    ),
    "a missing argument": (f"{LOSS}.init_args.pred", None, r"losses.side: fuse_losses.LossDefault needs pred"),
    "an argument beside init_args": (
        f"{LOSS}.weight",
        2.0,
        r"losses.side.weight: .* An argument of fuse_losses.LossDefault goes under init_args",
    ),
    "a value of another type": ("trainer.max_epochs", "many", r"trainer.max_epochs: it takes int, got 'many'"),
    "an optimizer's argument": (
        f"{OPTIMIZER}.init_args.base_optimizer.init_args.lrr",
        1.0,
        r"base_optimizer.init_args.lrr: torch.optim.SGD has no argument 'lrr'. Did you mean 'lr'\?",
    ),
    "an optimizer's value": (
        f"{OPTIMIZER}.init_args.base_optimizer.init_args.momentum",
        "much",
        r"base_optimizer.init_args.momentum: it takes float, got 'much'",
    ),
    "an optimizer that is none": (
        f"{OPTIMIZER}",
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}},
        r"optimizer: it takes Optimizer, which torch.nn.Linear is not",
    ),
    "a schedule's argument": (
        "model.init_args.optimizers_and_lr_schs.init_args.lr_scheduler.init_args",
        {"Tmax": 2},
        r"init_args.Tmax: torch.optim.lr_scheduler.CosineAnnealingLR has no argument 'Tmax'. Did you mean 'T_max'\?",
    ),
    "no class of the module": ("model.class_path", None, r"run.yaml:\d+: model: it needs class_path, such as"),
    "no data": ("data", None, r"data: fit needs batches. Give data a class_path"),
}


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_configuration_is_told_with_its_place_and_the_fix(edited, capsys, key, value, message):
    edited(key, value)
    assert fuse_lightning("fit") == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert len(printed.splitlines()) <= 4
    assert not Path("run").exists()


FAILURES = {
    "a value that a class refuses": (
        f"{LOSS}.init_args.weight",
        float("inf"),
        r"LossDefault\(weight=\) takes a finite number, got inf",
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
def test_what_cannot_run_is_told_before_training(edited, capsys, key, value, message):
    edited(key, value)
    assert fuse_lightning("fit") == 1
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert "Traceback" not in printed
    assert not list(Path().glob("run/*"))  # so that it runs again, mended, without --overwrite


def test_prediction_keys_that_are_not_set_are_asked_for(edited, capsys):
    edited("model.init_args.prediction_keys", None)
    assert fuse_lightning("predict", "--ckpt_path", "untrained") == 2
    assert "prediction_keys: predict needs the keys to write, a list. The model writes: model.logits.side" in (
        capsys.readouterr().err
    )
    assert not list(Path().rglob("predictions*"))


@pytest.fixture
def component_files(project):
    """The configuration with module and data in files of their own, in a folder beside it."""
    configuration = yaml.safe_load(CONFIGURATION)
    Path("parts").mkdir()
    for key in ("model", "data"):
        Path(f"parts/{key}.yaml").write_text(yaml.safe_dump(configuration[key], sort_keys=False))
        configuration[key] = f"{key}.yaml"
    Path("parts/run.yaml").write_text(yaml.safe_dump({**configuration, "run_dir": str(project / "run")}))
    return project / "parts"


NAMED_IN_THE_FILE = ["--config", "parts/run.yaml"]
NAMED_BY_OPTIONS = ["--config", "rest.yaml", "--model", "parts/model.yaml", "--data=parts/data.yaml"]


@pytest.mark.parametrize("options", [NAMED_IN_THE_FILE, NAMED_BY_OPTIONS])
def test_module_and_data_may_be_in_files_of_their_own(component_files, capsys, options):
    rest = yaml.safe_load(CONFIGURATION)
    Path("rest.yaml").write_text(yaml.safe_dump({"run_dir": "run", "trainer": rest["trainer"]}))
    assert main(["fit", *options]) == 0
    assert main(["test", "--config", "run/config.yaml"]) == 0

    text = Path("parts/model.yaml").read_text()
    Path("parts/model.yaml").write_text(text.replace("prediction_keys", "predicton_keys"))
    assert main(["fit", *options, "--run_dir", "other"]) == 2
    assert re.search(
        r"^error: parts/model.yaml:\d+: model.init_args.predicton_keys: .* Did you mean 'prediction_keys'\?$",
        capsys.readouterr().err,
    )
    Path("parts/model.yaml").write_text("model.yaml")
    assert main(["fit", *options, "--run_dir", "other"]) == 2
    assert "error: parts/model.yaml:1: model: it needs class_path, such as" in capsys.readouterr().err


def test_a_module_with_loaders_of_its_own_goes_on_from_the_configuration_that_was_kept(project, capsys):
    Path("points.py").write_text(f"{POINTS}\n{ALONE}")
    trainer = yaml.safe_load(CONFIGURATION)["trainer"]
    Path("run.yaml").write_text(yaml.safe_dump({"run_dir": "run", "trainer": trainer, "model": "points.Alone"}))
    assert fuse_lightning("fit") == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"] is None
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    Path("run.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": "points.Alne"}))
    assert fuse_lightning("fit") == 2
    assert "run.yaml:1: model: 'points.Alne': points has no 'Alne'. Did you mean 'Alone'?" in capsys.readouterr().err


def test_several_mistakes_are_told_at_once(edited, project, capsys):
    edited(f"{LOSS}.init_args.taget", "data.label")
    text = Path("run.yaml").read_text().replace("max_epochs", "max_epoch")
    Path("run.yaml").write_text(text)
    assert fuse_lightning("fit") == 2
    assert "2 problems in the configuration:" in capsys.readouterr().err


def test_a_key_given_twice_is_refused(project, capsys):
    Path("run.yaml").write_text(CONFIGURATION + "run_dir: other\n")
    assert fuse_lightning("fit") == 2
    assert "run_dir: this key is there twice" in capsys.readouterr().err


def test_what_is_not_yaml_is_told_with_its_line(project, capsys):
    Path("run.yaml").write_text("trainer:\n  max_epochs: 1\n model: 3\n")
    assert fuse_lightning("fit") == 2
    assert 'in "run.yaml", line 3, column 2' in capsys.readouterr().err


def test_a_configuration_file_that_is_not_there_is_named(project, capsys):
    assert main(["fit", "--config", "runn.yaml"]) == 2
    assert "cannot be read: [Errno 2] No such file or directory: 'runn.yaml'" in capsys.readouterr().err


def test_a_misspelt_option_is_told(project, capsys):
    assert fuse_lightning("fit", "--trainer.max_epocks=3") == 2
    assert "--trainer.max_epocks: there is no such key. Did you mean 'max_epochs'?" in capsys.readouterr().err
    assert fuse_lightning("fit", f"--{LOSS}.init_args.taget=3") == 2
    assert "fuse_losses.LossDefault has no argument 'taget'. Did you mean 'target'?" in capsys.readouterr().err
    assert fuse_lightning("fit", "--model.class_path", "fuse_lightning.LightningModulDefault") == 2
    assert ": fuse_lightning has no 'LightningModulDefault'. Did you mean 'LightningModuleDefault'?" in capsys.readouterr().err


def test_an_options_value_of_another_type_is_told(project, capsys):
    assert fuse_lightning("fit", "--trainer.max_epochs", "many", "--data.init_args.batch_size=tiny") == 2
    printed = capsys.readouterr().err
    assert "- --trainer.max_epochs: it takes int, got 'many'." in printed
    assert "- --data.init_args.batch_size: it takes int, got 'tiny'." in printed


def test_a_checkpoint_that_is_not_there_is_told(project, capsys):
    assert fuse_lightning("test") == 1
    assert "Train first" in capsys.readouterr().err
    assert fuse_lightning("fit", "--ckpt_path", "last") == 1
    assert "the run folder run has no checkpoint called last*.ckpt" in capsys.readouterr().err
    assert fuse_lightning("test", "--ckpt_path", "other.ckpt") == 1
    assert "other.ckpt: there is no such file" in capsys.readouterr().err


def test_a_mistake_in_the_users_own_code_shows_its_traceback(edited, project, capsys):
    (project / "points.py").write_text(POINTS.replace("x = self.x[index]", "x = self.y[index]"))
    assert fuse_lightning("fit") == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "has no attribute 'y'" in printed


def test_the_option_traceback_shows_one(project, capsys):
    assert fuse_lightning("test", "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- without a config


def test_help_is_short_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 40
    for command in ("fit", "validate", "test", "predict", "wiring", "template"):
        assert command in printed
        assert main([command, "--help"]) == 0
        assert f"fuse-lightning {command}" in (own := capsys.readouterr().out)
        assert len(own.splitlines()) < 40


def test_every_option_is_listed_on_demand(project, capsys):
    with pytest.raises(SystemExit) as exit_request:
        main(["fit", "--help_all"])
    assert exit_request.value.code == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_wrong_usage_exits_with_2(capsys):
    assert main([]) == 2
    assert main(["fitt"]) == 2
    assert "there is no command 'fitt'. Did you mean 'fit'?" in capsys.readouterr().err
    assert main(["fit"]) == 2
    assert "needs a configuration" in capsys.readouterr().err
    assert main(["fit", "my run.yaml"]) == 2
    assert "fuse-lightning fit --config 'my run.yaml'. To start" in capsys.readouterr().err
    assert main(["fit", "--trainer.max_epochs", "1", "--config"]) == 2
    assert "--config needs the configuration's path" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jsonargparse" else find_spec(name))
    assert main(["fit", "--config", "run.yaml"]) == 2
    assert 'pip install "fuse-lightning[cli]"' in capsys.readouterr().err


def test_the_installed_module_runs_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuse-lightning", "--version"])
    with pytest.raises(SystemExit) as exit_request:
        runpy.run_module("fuse_lightning.cli", run_name="__main__")
    assert exit_request.value.code == 0
    assert capsys.readouterr().out.startswith("fuse-lightning 0.")
