"""Mistakes in a configuration: all are reported at once, each with its place and the nearest valid name."""

import re
from pathlib import Path

import pytest
import yaml

from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")

LOSS = "model.init_args.losses.side"


OPTIMIZER = "model.init_args.optimizers_and_lr_schs.init_args.optimizer"


METRIC = "model.init_args.validation_metrics.accuracy.init_args"


ALONE = """
import enum
from datetime import timedelta
from typing import Any, Literal, Optional
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from fuse_lightning import LightningModuleDefault
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

class Color(enum.Enum):
    red = 1
    blue = 2

class Own(Alone):
    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        losses: dict[str, torch.nn.Module] | None = None,
        train_metrics: dict[str, torch.nn.Module] | None = None,
        color: Color = Color.red,
        forward: Optional["int"] = None,
        sides: list[Literal["a", "b"]] = ["a"],
        pause: timedelta | None = None,
        depth: int | torch.nn.Module = 3,
        side: Literal["a", "b"] | torch.nn.Module = "a",
        kind: type[torch.optim.Optimizer] = torch.optim.SGD,
    ):
        super().__init__()

class Passing(LightningModuleDefault):
    def __init__(self, hidden: int = 3, **kwargs: Any):
        super().__init__(**kwargs)
"""


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
            r"run.yaml:\d+: model.init_args.losses.side: it takes Module, got 'fuse_losses.LossDefualt': importing "
            r"fuse_losses.LossDefualt fails: .*No module named 'fuse_losses.LossDefualt'. Did you mean 'LossDefault'\?"
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
        r"callbacks\[0\]: it takes Callback, got 'EarlyStoping': there is no .* Did you mean 'EarlyStopping'\?",
    ),
    "an argument of a class by its name alone": (
        "trainer.callbacks",
        [{"class_path": "EarlyStopping", "init_args": {"moniter": "x"}}],
        r"EarlyStopping has no argument 'moniter'. Did you mean 'monitor'\?",
    ),
    "a wrong package": (
        f"{LOSS}.class_path",
        "fuse_loses.LossDefault",
        r"importing fuse_loses fails: .*No module named 'fuse_loses'. Did you mean 'fuse_losses'\?",
    ),
    "a class of another kind": (
        f"{METRIC}.metric",
        {"class_path": "torch.nn.ReLU"},
        r"accuracy.init_args.metric: it takes Metric or MetricCollection, got 'torch.nn.ReLU': it is no such class",
    ),
    "a function that is not there": (
        f"{LOSS}.init_args.callable",
        "torch.nn.functional.cross_entrpy",
        r"importing torch.nn.functional.cross_entrpy fails: .* Did you mean 'cross_entropy'\?",
    ),
    "a function that is not there, or None": (
        f"{LOSS}.init_args.preprocess_func",
        "points.halff",
        r"run.yaml:\d+: .*preprocess_func: module 'points' has no attribute 'halff'$",
    ),
    "a missing argument": (f"{LOSS}.init_args.pred", None, r"losses.side: fuse_losses.LossDefault needs pred"),
    "an argument beside init_args": (
        f"{LOSS}.weight",
        2.0,
        r"losses.side.weight: .* An argument of fuse_losses.LossDefault goes under init_args",
    ),
    "a value of another type": (
        "trainer.max_epochs",
        "many",
        r"run.yaml:\d+: trainer.max_epochs: it takes int, got many$",
    ),
    "an optimizer's argument": (
        f"{OPTIMIZER}.init_args.base_optimizer.init_args.lrr",
        1.0,
        r"base_optimizer.init_args.lrr: torch.optim.SGD has no argument 'lrr'. Did you mean 'lr'\?",
    ),
    "an optimizer's value": (
        f"{OPTIMIZER}.init_args.base_optimizer.init_args.momentum",
        "much",
        r"run.yaml:\d+: .*base_optimizer.init_args.momentum: it takes float, got much$",
    ),
    "a word as a learning rate": (
        f"{OPTIMIZER}.init_args.base_optimizer.init_args.lr",
        "fast",
        r"run.yaml:\d+: .*base_optimizer.init_args.lr: it takes float, got fast$",
    ),
    "an optimizer that is none": (
        f"{OPTIMIZER}",
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}},
        r"optimizer: it takes Optimizer, got 'torch.nn.Linear': it is no such class",
    ),
    "a schedule's argument": (
        "model.init_args.optimizers_and_lr_schs.init_args.lr_scheduler.init_args",
        {"Tmax": 2},
        r"init_args.Tmax: torch.optim.lr_scheduler.CosineAnnealingLR has no argument 'Tmax'. Did you mean 'T_max'\?",
    ),
    "a loss of tensors by its path alone": (
        LOSS,
        "torch.nn.CrossEntropyLoss",
        r"model.init_args.losses: 'side', a CrossEntropyLoss, takes other arguments .* Wrap it: LossDefault\(pred=key",
    ),
    "a function as a loss": (
        LOSS,
        "torch.nn.functional.cross_entropy",
        r"run.yaml:\d+: .*losses.side: it takes Module, got 'torch.nn.functional.cross_entropy': it is no such class",
    ),
    "a number as a loss": (
        LOSS,
        3,
        r"run.yaml:\d+: .*losses.side: it takes Module, got '3': .* Give a class_path, such as",
    ),
    "a metric of tensors": (
        METRIC.removesuffix(".init_args"),
        {"class_path": "torchmetrics.MeanSquaredError"},
        r"model.init_args.validation_metrics: 'accuracy', a MeanSquaredError, .* Wrap it: MetricDefault\(pred=key",
    ),
    "an optimizer in place of ConfigureOptimizers": (
        "model.init_args.optimizers_and_lr_schs",
        {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
        r"run.yaml:\d+: .*optimizers_and_lr_schs: torch.optim.Adam goes under fuse_lightning.ConfigureOptimizers",
    ),
    "an optimizer by a name alone that is misspelt": (OPTIMIZER, "Adamm", r"'Adamm': .*. Did you mean 'Adam'\?"),
    "a function as a network": (
        "model.init_args.model.init_args.model",
        "torch.nn.functional.relu",
        r"init_args.model: it takes Module, got 'torch.nn.functional.relu': it is no such class, and no function whose",
    ),
    "a word that is not allowed": (
        "trainer.precision",
        "fp15",
        r"run.yaml:\d+: trainer.precision: it takes int or Literal\[.*'16-mixed', .*\], got fp15$",
    ),
    "a seed that is no number": (
        "seed_everything",
        "zero",
        r"run.yaml:\d+: seed_everything: it takes bool or int, got zero$",
    ),
    "a list as the run folder": ("run_dir", ["a"], r"run.yaml:\d+: run_dir: it takes str, got \['a'\]$"),
    "no class of the module": (
        "model.class_path",
        None,
        r"run.yaml:\d+: model: it takes LightningModule, got '': there is no such class. Give a class_path, such as",
    ),
    "no module": ("model", None, r"^error: model: give it a class_path, such as fuse_lightning.LightningModuleDefault"),
    "no data": ("data", None, r"data: fit needs batches. Give data a class_path"),
}


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_with_its_place_and_the_fix(edited, capsys, key, value, message, run_command):
    edited(key, value)
    assert run_command("fit") == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert len(printed.splitlines()) <= 4
    assert not Path("run").exists()


@pytest.fixture
def component_files(project, configuration_text):
    """The configuration with module and data in files of their own, in a folder beside it."""
    configuration = yaml.safe_load(configuration_text)
    Path("parts").mkdir()
    for key in ("model", "data"):
        Path(f"parts/{key}.yaml").write_text(yaml.safe_dump(configuration[key], sort_keys=False))
        configuration[key] = f"{key}.yaml"
    Path("parts/run.yaml").write_text(yaml.safe_dump({**configuration, "run_dir": str(project / "run")}))
    return project / "parts"


NAMED_IN_THE_FILE = ["--config", "parts/run.yaml"]


NAMED_BY_OPTIONS = ["--config", "rest.yaml", "--model", "parts/model.yaml", "--data=parts/data.yaml"]


@pytest.mark.parametrize("options", [NAMED_IN_THE_FILE, NAMED_BY_OPTIONS])
def test_module_and_data_may_be_in_files_of_their_own(component_files, capsys, options, configuration_text):
    rest = yaml.safe_load(configuration_text)
    Path("rest.yaml").write_text(yaml.safe_dump({"run_dir": "run", "trainer": rest["trainer"], "seed_everything": 0}))
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
    assert (
        "error: parts/model.yaml:1: model: it takes LightningModule, got 'model.yaml': importing model fails"
        in capsys.readouterr().err
    )


def test_a_module_with_its_own_loaders_runs_from_the_kept_configuration(
    project, capsys, run_command, configuration_text
):
    Path("points.py").write_text(Path("points.py").read_text() + ALONE)
    trainer = yaml.safe_load(configuration_text)["trainer"]
    whole = {"run_dir": "run", "trainer": trainer, "model": "points.Alone", "seed_everything": 0}
    Path("run.yaml").write_text(yaml.safe_dump(whole))
    assert run_command("fit") == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"] is None
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    Path("run.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": "points.Alne"}))
    assert run_command("fit") == 2
    assert re.search(
        r"run.yaml:1: model: it takes LightningModule, got 'points.Alne': .* Did you mean 'Alone'\?",
        capsys.readouterr().err,
    )


@pytest.fixture
def own_module(project, configuration_text):
    """Writes a configuration whose model is a class with these arguments, and other keys of the model."""
    (project / "points.py").write_text(Path("points.py").read_text() + ALONE)
    trainer = yaml.safe_load(configuration_text)["trainer"]

    def write(name, arguments, **others):
        model = {"class_path": f"points.{name}", "init_args": arguments, **others}
        configuration = {"run_dir": "run", "trainer": trainer, "model": model, "seed_everything": 0}
        Path("run.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))

    return write


def test_an_own_module_takes_optimizers_losses_and_metrics_as_it_declares_them(own_module, run_command):
    own_module(
        "Own",
        {
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            "scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}},
            "losses": {"side": {"class_path": "torch.nn.CrossEntropyLoss"}},
            "train_metrics": {"error": {"class_path": "torchmetrics.MeanSquaredError"}},
            "side": "b",
        },
    )
    assert run_command("fit") == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Own", {"color": "rde"}, "color: it takes Color: {red,blue}, got rde"),
        ("Own", {"forward": "abc"}, "forward: it takes int, got abc"),
        ("Own", {"sides": ["c", "d"]}, "sides: it takes Literal['a', 'b'], got c"),
        ("Own", {"pause": "abc"}, 'pause: it takes string with form "h:m:s" or "d days, h:m:s", got abc'),
        ("Own", {"depth": 0.5}, "depth: it takes int or Module, got 0.5"),
        ("Own", {"side": "c"}, "side: it takes Literal['a', 'b'], got c"),
        (
            "Own",
            {"kind": "torch.optim.Adm"},
            (
                "kind: it takes Optimizer, got 'torch.optim.Adm': importing torch.optim.Adm fails: "
                "ModuleNotFoundError: No module named 'torch.optim.Adm'. Did you mean 'Adam'?"
            ),
        ),
        ("Passing", {"log_counted": "maybe"}, "log_counted: it takes bool, got maybe"),
    ],
)
def test_a_wrong_value_is_told_with_what_its_type_takes(own_module, capsys, run_command, name, arguments, message):
    own_module(name, arguments)
    assert run_command("fit") == 2
    assert f"model.init_args.{message}\n" in capsys.readouterr().err


def test_mistakes_are_told_in_their_order(own_module, capsys, run_command):
    own_module("Own", {}, **{f"wrong{number}": number for number in range(8)})
    assert run_command("fit") == 2
    printed = re.findall(r"model\.wrong(\d)", capsys.readouterr().err)
    assert printed == sorted(printed)


def test_several_mistakes_are_told_at_once(edited, project, capsys, run_command):
    edited(f"{LOSS}.init_args.taget", "data.label")
    text = Path("run.yaml").read_text().replace("max_epochs", "max_epoch")
    Path("run.yaml").write_text(text)
    assert run_command("fit") == 2
    assert "2 problems in the configuration:" in capsys.readouterr().err


def test_a_key_given_twice_is_refused(project, capsys, run_command, configuration_text):
    Path("run.yaml").write_text(configuration_text + "run_dir: other\n")
    assert run_command("fit") == 2
    assert "run_dir: this key is there twice" in capsys.readouterr().err


def test_what_is_not_yaml_is_told_with_its_line(project, capsys, run_command):
    Path("run.yaml").write_text("trainer:\n  max_epochs: 1\n model: 3\n")
    assert run_command("fit") == 2
    assert 'in "run.yaml", line 3, column 2' in capsys.readouterr().err


def test_a_configuration_file_that_is_not_there_is_named(project, capsys):
    assert main(["fit", "--config", "runn.yaml"]) == 2
    assert "cannot be read: [Errno 2] No such file or directory: 'runn.yaml'" in capsys.readouterr().err


def test_a_misspelt_option_is_told(project, capsys, run_command):
    assert run_command("fit", "--trainer.max_epocks=3") == 2
    assert "--trainer.max_epocks: there is no such key. Did you mean 'max_epochs'?" in capsys.readouterr().err
    assert run_command("fit", f"--{LOSS}.init_args.taget=3") == 2
    assert "fuse_losses.LossDefault has no argument 'taget'. Did you mean 'target'?" in capsys.readouterr().err
    assert run_command("fit", "--model.class_path", "fuse_lightning.LightningModulDefault") == 2
    printed = capsys.readouterr().err
    assert "--model.class_path: it takes LightningModule, got 'fuse_lightning.LightningModulDefault': " in printed
    assert "Did you mean 'LightningModuleDefault'?" in printed


def test_an_options_value_of_another_type_is_told(project, capsys, run_command):
    assert run_command("fit", "--trainer.max_epochs", "many", "--data.init_args.batch_size=tiny") == 2
    printed = capsys.readouterr().err
    assert "- --trainer.max_epochs: it takes int, got many\n" in printed
    assert "- --data.init_args.batch_size: it takes int, got tiny\n" in printed
    for option in (f"--{OPTIMIZER}.init_args.rho", "--model.optimizers_and_lr_schs.optimizer.rho"):
        assert run_command("fit", option, "wide") == 2
        assert capsys.readouterr().err == f"error: {option}: it takes float, got wide\n"
