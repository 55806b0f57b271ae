"""What a task is: the questions that the other files ask of `classification.py` and `segmentation.py`.

A task of your own is a Python file that answers them all. Copy the one that is nearer to yours, change it block by
block, and give it a name in `TASKS` in `run.py` and its defaults in `TASK_DEFAULTS` in `settings.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from fuse_core import NDict

from .settings import Settings


@dataclass(frozen=True)
class Samples:
    """Images, float32 [N, 1, H, W] from about 0 to 1, and their targets, int64: labels [N] or masks [N, H, W]."""

    images: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Splits:
    """The three parts of the data: to learn from, to choose the best epoch with, and to report, once, at the end."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True)
class Picture:
    """A picture of the run folder, for the page."""

    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table for the page: a first column of names, then numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Evaluation:
    """What the predictions are worth: one score to compare runs by, and what explains it."""

    score_name: str
    score: float
    numbers: Mapping[str, str]
    tables: Sequence[Table] = field(default_factory=tuple)
    pictures: Sequence[Picture] = field(default_factory=tuple)


class Task(Protocol):
    """What `classification.py` and `segmentation.py` hold."""

    IMAGE_KEY: str
    TARGET_KEY: str
    PREDICTION_KEYS: Sequence[str]  # what `infer` keeps of each batch, beside data.sample_id
    BEST_EPOCH_SOURCE: Mapping[str, str]  # which logged value tells the best epoch, and whether "min" or "max"
    CURVES: Sequence[tuple[str, str]]  # what the learning curves show: a logged name without its mode, and a title

    def load_splits(self, settings: Settings) -> Splits:
        """The data, split three ways."""

    def augment(self, batch_dict: NDict) -> NDict:
        """The training batch, changed at random."""

    def make_model(self, splits: Splits) -> nn.Module:
        """The model: reads `data.*`, writes `model.*`."""

    def make_losses(self) -> dict[str, nn.Module]:
        """The losses by name; they are added up."""

    def make_metrics(self) -> dict[str, nn.Module]:
        """The metrics by name: new ones at each call, as training and validation count apart."""

    def save_predictions(self, batches: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
        """Write what `Trainer.predict` returned to the run folder, for people and for `evaluate`."""

    def evaluate(self, run_dir: Path, splits: Splits) -> Evaluation:
        """Compare the saved predictions with the truth, and draw pictures."""
