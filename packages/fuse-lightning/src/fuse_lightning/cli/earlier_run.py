"""The run that `--overwrite` replaces, kept until the new one has taken a step: a wrong key is found only then."""

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from .run_folder import SET_ASIDE, remove_run_files, run_files


def set_aside(run_dir: Path) -> None:
    """Move the files of the run that is there, if any, to a folder of their own within the run folder.

    Where that folder is there already, the run that made it was killed before its first step: that run's files go.
    """
    aside = run_dir / SET_ASIDE
    if not aside.exists():
        aside.mkdir()
        for path in run_files(run_dir):
            _move(path, aside / path.relative_to(run_dir))
    remove_run_files(run_dir)


def is_set_aside(run_dir: Path) -> bool:
    """Whether `set_aside` was called, and no step has been taken since."""
    return (run_dir / SET_ASIDE).exists()


def bring_back(run_dir: Path) -> None:
    """Have the files that were set aside where they were; those of the run that was to replace them go."""
    remove_run_files(run_dir)
    aside = run_dir / SET_ASIDE
    for path in [path for path in aside.rglob("*") if not path.is_dir()]:
        _move(path, run_dir / path.relative_to(aside))
    shutil.rmtree(aside)


def _move(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)


class RemoveEarlierRun(Callback):
    """Removes what was set aside, after the first step.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.aside: Path | None = run_dir / SET_ASIDE

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Remove it once a step was taken, which may need several batches."""
        if self.aside is not None and trainer.global_step > 0:
            self._remove()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove it where training ends as it should without a step."""
        self._remove()

    def _remove(self) -> None:
        if self.aside is not None:
            shutil.rmtree(self.aside)
            self.aside = None
