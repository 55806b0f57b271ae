"""Blocks 6 and 7, train and infer: Lightning's Trainer, interruption and resuming.

Keys: training reads what model, losses and metrics name; prediction keeps the task's `PREDICTION_KEYS` and
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

from .loaders import make_evaluation_loader, make_training_loader
from .settings import BadInputError, Settings
from .start_run import LOGS_DIR, MODEL_DIR
from .task import Splits, Task

BEST_CHECKPOINT = "best_epoch.ckpt"
LAST_CHECKPOINT = "last.ckpt"


def check_accelerator(accelerator: str) -> None:
    """Fail before anything is written where a GPU is asked for that is not there.

    Raises:
        BadInputError: there is no GPU that torch can use.
    """
    if accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BadInputError(
            f"--accelerator gpu was asked for, but torch {torch.__version__}, {built}, finds no GPU. Use --accelerator "
            f"cpu or auto, or install the GPU's driver and a torch for it, as https://pytorch.org/get-started tells."
        )


def is_no_tip(record: logging.LogRecord) -> bool:
    """Filters out Lightning's advice on other products of its makers; whatever else it says is shown."""
    return "Tip: For seamless cloud" not in record.getMessage()


def make_trainer(settings: Settings, run_dir: Path, **arguments: Any) -> pl.Trainer:
    """Lightning's Trainer: the loop over epochs and batches, on whatever there is to compute on."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(is_no_tip)
    return pl.Trainer(
        default_root_dir=run_dir,
        accelerator=settings.accelerator,
        # For several GPUs: devices=4, strategy="ddp". Model, losses, metrics and module stay as they are, but Lightning
        # then starts this program once for each GPU: have the first alone (trainer.is_global_zero) write files.
        devices=1,
        # Same seed, same result. Where an operation has no deterministic form on a GPU, a warning says which.
        deterministic="warn",
        # precision="bf16-mixed",  # half the memory and more speed on recent GPUs
        # accumulate_grad_batches=4,  # batches four times as large as fit into memory
        # gradient_clip_val=1.0,  # where single batches have huge gradients
        log_every_n_steps=1,  # values are logged at the ends of epochs, which this keeps Lightning from warning about
        **arguments,
    )


@contextmanager
def ctrl_c_comes_through() -> Iterator[None]:
    """Ends with KeyboardInterrupt after Ctrl-C, where Lightning, once it has shut down, exits as after a failure."""
    try:
        yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def train(task: Task, module: pl.LightningModule, splits: Splits, settings: Settings, run_dir: Path) -> None:
    """Train, from the start or from the last checkpoint where there is one.

    Each attempt logs to a folder of its own, `logs/csv/version_<n>` and `logs/tensorboard/version_<n>`; look at the
    latter with `tensorboard --logdir <run folder>/logs`. Other loggers of Lightning's (Weights & Biases, MLflow) are a
    line each here.
    """
    last = run_dir / MODEL_DIR / LAST_CHECKPOINT
    logs = run_dir / LOGS_DIR
    trainer = make_trainer(
        settings,
        run_dir,
        max_epochs=settings.epochs,
        logger=[CSVLogger(logs, name="csv"), TensorBoardLogger(logs, name="tensorboard", default_hp_metric=False)],
        callbacks=[CheckpointAtStart(last)],
    )
    # What Lightning warns of is what `--resume` is for, and run_folder.py has seen to the rest.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    with ctrl_c_comes_through():
        trainer.fit(
            module,
            train_dataloaders=make_training_loader(task, splits.train, settings),
            val_dataloaders=make_evaluation_loader(task, "validation", splits.validation, settings),
            ckpt_path=last if last.exists() else None,
            weights_only=True,  # a checkpoint is data: one that would run code is refused
        )


class CheckpointAtStart(Callback):
    """Writes the last checkpoint before the first step, so that Ctrl-C in the first epoch can be resumed from too.

    After each epoch it is written anew. An epoch that was cut off is trained again from its start. The checkpoint holds
    the state of the random generators too, so it is written before the loaders draw from them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it where there is none."""
        if not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)  # the optimizer's state and all the rest too


def predict(
    task: Task, module: pl.LightningModule, splits: Splits, settings: Settings, run_dir: Path
) -> Sequence[Mapping[str, Any]]:
    """Predict the test set with the best epoch's weights: for each batch the task's PREDICTION_KEYS."""
    trainer = make_trainer(settings, run_dir, logger=False)
    loader = make_evaluation_loader(task, "test", splits.test, settings)
    # For sets too large for memory: fuse_lightning.PredictionsToFile as a callback of the trainer, which writes each
    # batch when it is predicted, and return_predictions=False here.
    with ctrl_c_comes_through():
        batches = trainer.predict(module, loader, ckpt_path=run_dir / MODEL_DIR / BEST_CHECKPOINT, weights_only=True)
    return cast(Sequence[Mapping[str, Any]], batches)
