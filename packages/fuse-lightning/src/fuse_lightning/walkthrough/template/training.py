"""Blocks 6 and 7, train and infer: Lightning's Trainer, interruption and resuming.

Keys: training reads the keys of model, losses and metrics. Prediction keeps the task's `PREDICTION_KEYS` and
`data.sample_id`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from fuse_lightning import RunReport

from .loaders import make_evaluation_loader, make_training_loader
from .settings import BadInputError, Settings
from .start_run import LOGS_DIR, MODEL_DIR
from .task import Splits, Task

BEST_CHECKPOINT = "best_epoch.ckpt"
LAST_CHECKPOINT = "last.ckpt"


def check_accelerator(accelerator: str) -> None:
    """Fail before anything is written if there is no GPU but one was requested.

    Raises:
        BadInputError: torch finds no GPU.
    """
    if accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BadInputError(
            f"--accelerator gpu was asked for, but torch {torch.__version__}, {built}, finds no GPU. Use --accelerator "
            f"cpu or auto, or install the GPU's driver and a torch for it, as https://pytorch.org/get-started tells."
        )


def is_no_tip(record: logging.LogRecord) -> bool:
    """Filters out Lightning's advertisements for other products; all other messages are shown."""
    return "Tip: For seamless cloud" not in record.getMessage()


def make_trainer(settings: Settings, run_dir: Path, **arguments: Any) -> pl.Trainer:
    """Lightning's Trainer: the loop over epochs and batches, on the available device."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(is_no_tip)
    return pl.Trainer(
        default_root_dir=run_dir,
        accelerator=settings.accelerator,
        # For several GPUs: devices=4, strategy="ddp". Model, losses, metrics and module stay the same. Lightning then
        # starts this program once for each GPU; only the first one (trainer.is_global_zero) should write files.
        devices=1,
        # The same seed gives the same result. A warning names operations that are not deterministic on a GPU.
        deterministic="warn",
        # precision="bf16-mixed",  # half the memory, and faster on recent GPUs
        # accumulate_grad_batches=4,  # for batches four times as large as the memory allows
        # gradient_clip_val=1.0,  # if single batches have very large gradients
        log_every_n_steps=1,  # values are logged once an epoch; 1 avoids Lightning's warning about that
        **arguments,
    )


def make_report(task: Task, settings: Settings, run_dir: Path) -> RunReport:
    """The callback that writes `index.html`: the learning curves after each epoch, the wiring, the versions.

    When predicting, it keeps the images of the worst cases; the evaluation adds the quality of each class, from
    `predictions.csv`. All other values are in `report.json`.
    """
    title = f"{settings.task.capitalize()} of digits"
    return RunReport(run_dir, class_names=task.CLASSES, image=task.IMAGE_KEY, title=title)


@contextmanager
def ctrl_c_comes_through() -> Iterator[None]:
    """Raises KeyboardInterrupt after Ctrl-C; Lightning shuts down and then exits as after a failure."""
    try:
        yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def train(task: Task, module: pl.LightningModule, splits: Splits, settings: Settings, run_dir: Path) -> None:
    """Train from the start, or from the last checkpoint if there is one.

    Each start logs to new folders, `logs/csv/version_<n>` and `logs/tensorboard/version_<n>`. View the latter with
    `tensorboard --logdir <run folder>/logs`. Add Lightning's other loggers (Weights & Biases, MLflow) here.
    """
    last = run_dir / MODEL_DIR / LAST_CHECKPOINT
    logs = run_dir / LOGS_DIR
    trainer = make_trainer(
        settings,
        run_dir,
        max_epochs=settings.epochs,
        logger=[CSVLogger(logs, name="csv"), TensorBoardLogger(logs, name="tensorboard", default_hp_metric=False)],
        callbacks=[CheckpointAtStart(last), make_report(task, settings, run_dir)],
    )
    # `--resume` expects these files, and start_run.py has checked all other cases.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    with ctrl_c_comes_through():
        trainer.fit(
            module,
            train_dataloaders=make_training_loader(task, splits.train, settings),
            val_dataloaders=make_evaluation_loader(task, "validation", splits.validation, settings),
            ckpt_path=last if last.exists() else None,
            weights_only=True,  # refuse a checkpoint that could run code
        )


class CheckpointAtStart(Callback):
    """Writes the last checkpoint before the first step, so that a run can resume after Ctrl-C in the first epoch.

    An interrupted epoch is trained again from its start. The checkpoint holds the state of the random generators, so it
    is written before the loaders use them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it if there is none."""
        if not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)  # with the optimizer's state and everything else


def predict(
    task: Task, module: pl.LightningModule, splits: Splits, settings: Settings, run_dir: Path
) -> Sequence[Mapping[str, Any]]:
    """Predict the test set with the best epoch's weights; returns the task's PREDICTION_KEYS of each batch."""
    trainer = make_trainer(settings, run_dir, logger=False, callbacks=[make_report(task, settings, run_dir)])
    loader = make_evaluation_loader(task, "test", splits.test, settings)
    # If the predictions do not fit into memory, add the callback fuse_lightning.PredictionsToFile, which writes each
    # batch at once, and return_predictions=False.
    with ctrl_c_comes_through():
        batches = trainer.predict(module, loader, ckpt_path=run_dir / MODEL_DIR / BEST_CHECKPOINT, weights_only=True)
    return cast(Sequence[Mapping[str, Any]], batches)
