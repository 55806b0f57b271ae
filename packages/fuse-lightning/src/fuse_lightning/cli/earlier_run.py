"""The run that `--overwrite` replaces: it is kept until the new run has taken a step, which a wrong key prevents.

Its files are moved to a folder within the run folder and, if the new run takes no step, back again. A process that is
killed at any moment leaves each file in one of the two places.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from fuse_lightning.run_folder import make_writable, remove_written_files, written_files

from .checkpoint_by_name import checkpoints_in
from .errors import RunError
from .file_names import (
    CONFIG_FILE,
    CONFIG_START,
    EARLIER_RUN,
    EARLIER_RUN_IN_PART,
    EARLIER_RUN_REMOVED,
    WRITTEN,
)


def check_run_folder(run_dir: Path, overwrite: bool) -> None:
    """Check that a new run may be written to the folder.

    Raises:
        RunError: it is a file, or it holds files that may not be overwritten.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"the run folder {run_dir} is a file. Choose another --run_dir.")
    if all(path.is_dir() for path in run_dir.rglob("*")):  # also where a run was killed before it wrote a file
        return
    folders = (run_dir, run_dir / EARLIER_RUN, run_dir / EARLIER_RUN_IN_PART)
    if not any(_is_config_of_run(folder / CONFIG_FILE) for folder in folders):
        raise RunError(
            f"the run folder {run_dir} holds files, but no {CONFIG_FILE} of an earlier run: nothing is written there. "
            f"Choose another --run_dir."
        )
    if not overwrite:
        resume = "continue that run with --ckpt_path last, " if checkpoints_in(run_dir, "last") else ""
        raise RunError(
            f"the run folder {run_dir} holds an earlier run. Choose another --run_dir, {resume}or replace it with "
            f"--overwrite."
        )


def _is_config_of_run(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(CONFIG_START)


@contextmanager
def replace_earlier_run(run_dir: Path, callbacks: list[Callback]) -> Iterator[None]:
    """A training within this starts with an empty run folder. One that takes no step leaves the folder as it was.

    Args:
        run_dir: the run folder; it is made if there is none.
        callbacks: the trainer's, of which this adds one.

    Raises:
        RunError: nothing can be written there, or the earlier run's files cannot be moved.
    """
    try:
        make_writable(run_dir)
    except OSError as error:
        problem = f"nothing can be written to the run folder {run_dir}: {error}. Choose another --run_dir."
        raise RunError(problem) from error
    callbacks.insert(0, RemoveEarlierRun(run_dir))
    try:
        set_aside(run_dir)
        yield
    finally:
        bring_back(run_dir)  # after the first step there is nothing to bring back


def set_aside(run_dir: Path) -> None:
    """Move the files of an earlier run to a folder of their own within the run folder.

    If that folder exists already, the run that created it was killed before its first step, and its files are removed.

    Raises:
        RunError: the files cannot be moved.
    """
    aside, in_part = run_dir / EARLIER_RUN, run_dir / EARLIER_RUN_IN_PART
    try:
        if not aside.exists():
            in_part.mkdir(exist_ok=True)
            for path in written_files(run_dir, WRITTEN):
                _move(path, in_part / path.relative_to(run_dir))
            in_part.rename(aside)
        remove_written_files(run_dir, WRITTEN)
    except OSError as error:
        problem = f"the earlier run in {run_dir} cannot be set aside: {error}. Choose another --run_dir."
        raise RunError(problem) from error


def bring_back(run_dir: Path) -> None:
    """Move the earlier run's files back to where they were, and remove those of the run that was to replace it."""
    aside, in_part = run_dir / EARLIER_RUN, run_dir / EARLIER_RUN_IN_PART
    if aside.exists():
        remove_written_files(run_dir, WRITTEN)
        aside.rename(in_part)
    if in_part.exists():
        for path in [path for path in in_part.rglob("*") if path.is_symlink() or not path.is_dir()]:
            _move(path, run_dir / path.relative_to(in_part))
        shutil.rmtree(in_part)


def remove_earlier_run(run_dir: Path) -> None:
    """Remove the files that were set aside, and those that an interrupted removal left."""
    aside, removed = run_dir / EARLIER_RUN, run_dir / EARLIER_RUN_REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    if aside.exists():
        aside.rename(removed)  # first, so that a half removed run is not brought back
        shutil.rmtree(removed)


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)  # logs/ may be on another disk


class RemoveEarlierRun(Callback):
    """Removes the earlier run after the first optimizer step.

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
        """Remove it if training ends normally without a step."""
        self._remove(trainer)

    def _remove(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and not self.removed:
            remove_earlier_run(self.run_dir)
            self.removed = True
