"""The settings of a run, and `config.yaml`, which keeps them with the results.

To add a setting, give `Settings` a field with a default, and `add_settings` an argument of the same name. It is then
written to `config.yaml`, and available wherever `settings` is.
"""

import argparse
import dataclasses
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml


class BadInputError(Exception):
    """A mistake that the user can fix, in one line. Other errors show their traceback."""


CONFIG_FILE = "config.yaml"
WRITTEN_BY = "fuse-lightning walkthrough"  # marks a run folder, so that no other folder is ever overwritten

# Each task has defaults of its own. The command line overrides them.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"epochs": 25, "learning_rate": 2e-3},
    "segmentation": {"epochs": 12, "learning_rate": 1e-2},
}


@dataclass(frozen=True)
class Settings:
    """The settings of a run. The same settings, versions and device give the same results."""

    task: str
    style: str
    epochs: int
    learning_rate: float
    batch_size: int = 32
    optimizer: str = "adam"
    sampler: str = "shuffle"
    seed: int = 0
    accelerator: str = "auto"
    data_dir: str | None = None
    max_train_samples: int | None = None


MAY_CHANGE = ("accelerator",)  # when a run continues; all other settings must stay the same


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each setting. The parser returns only those that are given."""
    group = parser.add_argument_group("settings of the run", argument_default=argparse.SUPPRESS)
    group.add_argument("--task", choices=tuple(TASK_DEFAULTS), help="what is learned (default: classification)")
    defaults = ", ".join(f"{task}: {values['epochs']}" for task, values in TASK_DEFAULTS.items())
    group.add_argument("--epochs", type=positive(int), help=f"passes over the training set (default: {defaults})")
    defaults = ", ".join(f"{task}: {values['learning_rate']}" for task, values in TASK_DEFAULTS.items())
    group.add_argument("--learning-rate", type=positive(float), help=f"the initial learning rate (default: {defaults})")
    group.add_argument(
        "--batch-size", type=positive(int), help=f"samples in each step (default: {Settings.batch_size})"
    )
    group.add_argument(
        "--optimizer", choices=("adam", "sam"), help=f"sam takes two passes a step (default: {Settings.optimizer})"
    )
    group.add_argument(
        "--sampler",
        choices=("shuffle", "balanced"),
        help=f"balanced draws every class equally often (default: {Settings.sampler})",
    )
    group.add_argument(
        "--seed", type=seed, help=f"for split, weights, order and augmentation (default: {Settings.seed})"
    )
    group.add_argument(
        "--accelerator",
        choices=("auto", "cpu", "gpu"),
        help=f"the device; auto uses a GPU if there is one (default: {Settings.accelerator})",
    )
    group.add_argument(
        "--data-dir",
        type=lambda folder: str(Path(folder).resolve()),
        help="classification: a folder with the four MNIST IDX files, to train on those instead of the 8 x 8 digits",
    )
    group.add_argument(
        "--max-train-samples", type=positive(int), help="train on this many samples only, for a quick test"
    )


def positive(kind: type) -> Callable[[str], Any]:
    """An argument type: a number above zero."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return number

    parse.__name__ = kind.__name__  # argparse uses it in messages
    return parse


def seed(text: str) -> int:
    """An argument type: a seed that every random generator takes."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}, got {text}")
    return number


def make_settings(given: Mapping[str, Any], style: str) -> Settings:
    """The settings of a new run: those given, then the task's defaults, then those of `Settings`.

    Raises:
        BadInputError: the settings do not fit together.
    """
    task = given.get("task", "classification")
    settings = Settings(**{"task": task, "style": style, **TASK_DEFAULTS[task], **given})
    if settings.task == "segmentation":
        if settings.data_dir is not None:
            raise BadInputError("--data-dir is for --task classification; the canvases are made of the 8 x 8 digits.")
        if settings.sampler == "balanced":
            raise BadInputError("--sampler balanced needs one class a sample: use it with --task classification.")
    return settings


def write_config(run_dir: Path, settings: Settings) -> None:
    """Write `config.yaml`: the settings and the versions of the run."""
    content = {
        "written_by": WRITTEN_BY,
        "settings": dataclasses.asdict(settings),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # includes the CUDA version
            "pytorch-lightning": version("pytorch-lightning"),
        },
    }
    (run_dir / CONFIG_FILE).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def is_run_folder(folder: Path) -> bool:
    """Whether the folder holds a `config.yaml` that a run wrote."""
    try:
        content = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("written_by") == WRITTEN_BY


def read_config(run_dir: Path, given: Mapping[str, Any], style: str) -> Settings:
    """The settings of an existing run.

    Raises:
        BadInputError: the folder is not a run folder, or a given setting differs from the run's.
    """
    if not is_run_folder(run_dir):
        raise BadInputError(f"{run_dir} is no run folder: it has no {CONFIG_FILE} of a run. Train first.")
    stored = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))["settings"]
    for name, value in {**given, "style": style}.items():
        if name not in MAY_CHANGE and value != stored.get(name):
            option = f"--{name.replace('_', '-')}"
            raise BadInputError(
                f"{run_dir} was started with {option} {stored.get(name)}, got {option} {value}. "
                f"Give the same, or start another run."
            )
    return Settings(**{**stored, **{name: given[name] for name in MAY_CHANGE if name in given}})
