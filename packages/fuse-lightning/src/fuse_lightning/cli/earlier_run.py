"""The run that `--overwrite` replaces, kept until the new one has taken a step: a wrong key is found only then.

It is in one folder or the other, so that it is whole wherever a process was killed.
"""

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from .errors import RunError
from .run_folder import REMOVED, SET_ASIDE, SET_ASIDE_PARTLY, remove_run_files, run_files


def set_aside(run_dir: Path) -> None:
    """Move the files of the run that is there, if any, to a folder of their own within the run folder.

    Where that folder is there already, the run that made it was killed before its first step: that run's files go.

    Raises:
        RunError: they cannot be moved.
    """
    aside, partly = run_dir / SET_ASIDE, run_dir / SET_ASIDE_PARTLY
    try:
        if not aside.exists():
            partly.mkdir(exist_ok=True)
            for path in run_files(run_dir):
                _move(path, partly / path.relative_to(run_dir))
            partly.rename(aside)
        remove_run_files(run_dir)
    except OSError as error:
        raise RunError(
            f"the earlier run in {run_dir} cannot be set aside: {error}. Choose another --run_dir."
        ) from error


def bring_back(run_dir: Path) -> None:
    """Have the files that are set aside, if any, where they were; those of the run that was to replace them go."""
    aside, partly = run_dir / SET_ASIDE, run_dir / SET_ASIDE_PARTLY
    if aside.exists():
        remove_run_files(run_dir)
        aside.rename(partly)
    if partly.exists():
        for path in [path for path in partly.rglob("*") if path.is_symlink() or not path.is_dir()]:
            _move(path, run_dir / path.relative_to(partly))
        shutil.rmtree(partly)


def remove_earlier_run(run_dir: Path) -> None:
    """Remove what is set aside, and what an interrupted removal left."""
    aside, removed = run_dir / SET_ASIDE, run_dir / REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    if aside.exists():
        aside.rename(removed)  # first, for what is half removed must not be brought back
        shutil.rmtree(removed)


def _move(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)  # to another disk as well, where logs/ is one


class RemoveEarlierRun(Callback):
    """Removes what was set aside, after the first step.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.steps_before = 0
        self.removed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the steps of the checkpoint that the run starts from."""
        self.steps_before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Remove it once a step was taken, which may need several batches."""
        if trainer.global_step > self.steps_before:
            self._remove(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove it where training ends as it should without a step."""
        self._remove(trainer)

    def _remove(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and not self.removed:
            remove_earlier_run(self.run_dir)
            self.removed = True
