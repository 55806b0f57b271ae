"""A small configuration of the user's own, in the folder where the commands run."""

import copy
import csv
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from fuse_lightning.cli.main import main

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


def run(*arguments):
    return main([*arguments[:1], "--config", "run.yaml", *arguments[1:]])


@pytest.fixture(scope="session")
def run_command():
    """Runs a command with `--config run.yaml`; returns its exit code."""
    return run


@pytest.fixture(scope="session")
def configuration_text():
    """The text of run.yaml."""
    return CONFIGURATION


@pytest.fixture(scope="session")
def read_csv():
    """Reads the rows of a CSV file."""

    def read(path):
        with Path(path).open(newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the user's module, where the command runs."""
    (tmp_path / "points.py").write_text(POINTS)
    (tmp_path / "run.yaml").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "points", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The run folder after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "points.py").write_text(POINTS)
    (folder / "run.yaml").write_text(CONFIGURATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        assert run("fit") == 0
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
