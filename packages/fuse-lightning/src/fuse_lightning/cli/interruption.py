"""Ctrl-C, SIGTERM and Slurm's signal before it requeues a job: a last checkpoint, and how to continue from it."""

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from fuse_lightning.run_folder import LAST_CHECKPOINT

from .checkpoint_by_name import checkpoints_in
from .file_names import EARLIER_RUN
from .save_run_config import SaveRunConfig


class Interruption(Callback):
    """Saves `last.ckpt` when a training is terminated, and prints how to continue it.

    SIGTERM ends the training after the batch at hand. In a Slurm job, SIGUSR1 does the same, and then requeues the job.
    It is the signal that `#SBATCH --signal=SIGUSR1@90` sends 90 seconds before the time limit. During a validation, the
    checkpoint before it is kept, because Lightning would not validate that epoch again.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.requeue = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Handle SIGUSR1 in a Slurm job. Lightning then leaves this signal alone."""
        if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._end_and_requeue)

    def _end_and_requeue(self, *_: Any) -> None:
        self.requeue = True
        signal.raise_signal(signal.SIGTERM)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, print and requeue, where that applies."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        is_terminated = isinstance(exception, SIGTERMException)
        has_step = not (self.run_dir / EARLIER_RUN).exists()
        keeps = trainer.validating and checkpoints_in(self.run_dir, LAST_CHECKPOINT)
        if is_terminated and has_step and not keeps:
            trainer.save_checkpoint(self.run_dir / f"{LAST_CHECKPOINT}.ckpt", weights_only=False)
        if not trainer.is_global_zero:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
        path = next((callback.path for callback in callbacks if isinstance(callback, SaveRunConfig)), None)
        if path is not None and checkpoints_in(self.run_dir, LAST_CHECKPOINT):
            command = f"fuse-lightning fit --config {shlex.quote(str(path))} --ckpt_path last"
            title = "Terminated" if is_terminated else "Interrupted"
            print(f"\n{title}. To continue from the last checkpoint:\n  {command}", flush=True)  # noqa: T201
        if self.requeue:
            subprocess.run(["scontrol", "requeue", slurm_job()], check=False)  # noqa: S603, S607  found on the PATH


def slurm_job() -> str:
    """The identifier of the Slurm job that this process belongs to, in an array that of its task."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def is_requeued() -> bool:
    """Whether Slurm has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
