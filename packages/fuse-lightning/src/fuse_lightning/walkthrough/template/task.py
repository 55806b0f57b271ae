"""What a task must define: the names that the other files use from `classification.py` and `segmentation.py`.

To add your own task, copy the more similar one of these files and change it block by block. Then add it to `TASKS` in
`run.py`, and its defaults to `TASK_DEFAULTS` in `settings.py`.
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
    """The data in three parts: for training, for choosing the best epoch, and for the final report."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True)
class Evaluation:
    """The quality of the predictions: one score to compare runs, and what explains it."""

    score_name: str
    score: float
    numbers: Mapping[str, str]
    pictures: Mapping[str, str] = field(default_factory=dict)  # for the page: files in the run folder, by title


class Task(Protocol):
    """What `classification.py` and `segmentation.py` define."""

    IMAGE_KEY: str
    TARGET_KEY: str
    CLASSES: Sequence[str]  # the names of the classes, for the page
    PREDICTION_KEYS: Sequence[str]  # what `infer` keeps of each batch, in addition to data.sample_id
    BEST_EPOCH_SOURCE: Mapping[str, str]  # the logged value that decides which epoch is best, and "min" or "max"
    CURVES: Sequence[tuple[str, str]]  # learning curves: a logged name without its mode, and a title

    def load_splits(self, settings: Settings) -> Splits:
        """The data in three parts."""

    def augment(self, batch_dict: NDict) -> NDict:
        """The training batch, with random changes."""

    def make_model(self, splits: Splits) -> nn.Module:
        """The model. It reads `data.*` and writes `model.*`."""

    def make_losses(self) -> dict[str, nn.Module]:
        """The losses by name. Their sum is minimized."""

    def make_metrics(self) -> dict[str, nn.Module]:
        """The metrics by name. Each call makes new ones, because training and validation need separate ones."""

    def save_predictions(self, batches: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
        """Write the result of `Trainer.predict` to the run folder, for people and for `evaluate`."""

    def evaluate(self, run_dir: Path, splits: Splits) -> Evaluation:
        """Compare the saved predictions with the targets, and draw pictures."""
