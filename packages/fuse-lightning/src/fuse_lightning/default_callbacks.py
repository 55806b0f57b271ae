"""The default callbacks of a training run."""

from collections.abc import Sequence
from datetime import timedelta
from numbers import Integral
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from .checkpoints.atomic_checkpoint_io import AtomicCheckpointIO, check_before_training
from .checkpoints.best_epoch_source import BestEpochSource, checked_sources
from .checkpoints.random_state import RandomState
from .model_epoch_summary import ModelEpochSummary
from .run_folder import BEST_CHECKPOINT, LAST_CHECKPOINT, with_monitor


class DefaultModelCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint of the module's. Its type distinguishes it from those that users give to the Trainer.

    It makes the Trainer write checkpoints with `AtomicCheckpointIO`, unless the user chose another CheckpointIO.
    """

    monitor_argument = "best_epoch_source"  # where the user gave the monitor, for messages

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the CheckpointIO before a file is read or written."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(DefaultModelCheckpoint):
    """Writes `last.ckpt`; never between two batches whose gradients are accumulated, which a checkpoint does not hold.

    Args:
        model_dir: the folder.
        options: when to write; arguments of `ModelCheckpoint`.
    """

    def __init__(self, model_dir: str | Path, **options: Any) -> None:
        super().__init__(dirpath=model_dir, filename=LAST_CHECKPOINT, enable_version_counter=False, **options)
        self._key = f"{type(self).__name__}{options}"
        self._steps = 0

    @property
    def state_key(self) -> str:
        """Distinguishes several callbacks that write `last.ckpt` at different times."""
        return self._key

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check before the first step that the checkpoint can be read again."""
        super().on_train_start(trainer, pl_module)
        self._steps = trainer.global_step
        if self._save_on_train_epoch_end and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_before_training(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Write after an optimizer step, if it is time. A validation or epoch's end that follows will write."""
        stepped = trainer.global_step != self._steps
        self._steps = trainer.global_step
        loop = trainer.fit_loop.epoch_loop
        validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        if stepped and not loop.batch_progress.is_last_batch and not validates:
            super().on_train_batch_end(trainer, *arguments)


class DefaultModelEpochSummary(ModelEpochSummary):
    """A ModelEpochSummary of the module's. Its type distinguishes it from those that users give to the Trainer."""

    monitor_argument = "best_epoch_source"


OF_THE_MODULE = (DefaultModelCheckpoint, LastCheckpoint, DefaultModelEpochSummary, RandomState)


def model_default_callbacks(
    model_dir: str | Path | None,
    best_epoch_source: BestEpochSource | None = None,
    log_lr: bool = True,
    save_every_n_steps: int | None = None,
    save_every_minutes: float | None = None,
    save_at_validation: bool = False,
) -> list[Callback]:
    """Checkpoints of the best epoch and the last one, a summary table per epoch, and the learning rate in the log.

    Args:
        model_dir: where `last.ckpt`, `best_epoch.ckpt` and the summary are written. None writes none of them.
        best_epoch_source: arguments of `ModelCheckpoint` that choose the best epoch: `monitor`, the logged name, and
            `mode`, `"min"` or `"max"`. A list of such dicts gives several checkpoints, named
            `best_epoch_<monitor>.ckpt`. With `save_top_k` other than 1 the names end in epoch and step. None keeps
            no best epoch.
        log_lr: log the learning rate; needs a trainer with a logger.
        save_every_n_steps: also write `last.ckpt` after so many optimizer steps.
        save_every_minutes: also write `last.ckpt` after so many minutes.
        save_at_validation: also write `last.ckpt` after each validation, for validations inside epochs.

    Raises:
        TypeError: an entry of `best_epoch_source` is not a dict, or has an argument that ModelCheckpoint lacks.
        ValueError: an entry has no `monitor` or an unknown `mode`, two entries have the same monitor, or an option
            needs `model_dir`.

    Example:
        >>> source = {"monitor": "validation.losses.total_loss", "mode": "min"}
        >>> for callback in model_default_callbacks("run", source):
        ...     print(type(callback).__name__)
        DefaultModelCheckpoint
        DefaultModelEpochSummary
        LastCheckpoint
        RandomState
        LearningRateMonitor
    """
    sources = checked_sources(best_epoch_source)
    steps = save_every_n_steps
    if steps is not None and not (isinstance(steps, Integral) and not isinstance(steps, bool) and steps > 0):
        raise ValueError(f"save_every_n_steps= is an integer of at least 1, got {save_every_n_steps!r}.")
    if save_every_minutes is not None and save_every_minutes < 0:
        raise ValueError(f"save_every_minutes= is not negative, got {save_every_minutes!r}.")
    learning_rate = [LearningRateMonitor(logging_interval="epoch")] if log_lr else []
    if model_dir is None:
        options = {"save_every_n_steps": save_every_n_steps, "save_every_minutes": save_every_minutes}
        for name, value in ({"best_epoch_source": best_epoch_source} | options).items():
            if value is not None:
                raise ValueError(f"{name}= needs model_dir, the folder for its checkpoints; got model_dir=None.")
        return [RandomState(), *learning_rate]
    callbacks: list[Callback] = []
    for source in sources:
        name = BEST_CHECKPOINT if len(sources) == 1 else with_monitor(BEST_CHECKPOINT, source["monitor"])
        several = source.get("save_top_k", 1) not in (0, 1)
        defaults = {
            "dirpath": model_dir,
            "filename": f"{name}-{{epoch}}-{{step}}" if several else name,
            "mode": "min",
            "enable_version_counter": several,
        }
        callbacks.append(DefaultModelCheckpoint(**{**defaults, **source}))
    # First the summaries, so that `last.ckpt` holds those of its own epoch.
    for source in sources:
        mode = source.get("mode", "min")
        callbacks.append(DefaultModelEpochSummary(model_dir, monitor=source["monitor"], mode=mode))
    callbacks.append(LastCheckpoint(model_dir, save_on_train_epoch_end=True))
    if save_at_validation:
        callbacks.append(LastCheckpoint(model_dir, save_on_train_epoch_end=False))
    if save_every_n_steps is not None:
        callbacks.append(LastCheckpoint(model_dir, every_n_train_steps=int(save_every_n_steps)))
    if save_every_minutes is not None:
        callbacks.append(LastCheckpoint(model_dir, train_time_interval=timedelta(minutes=save_every_minutes)))
    return [*callbacks, RandomState(), *learning_rate]


def callbacks_for_trainer(
    trainer: pl.Trainer, callbacks: Sequence[Callback], model_dir: str | Path | None, **options: Any
) -> list[Callback]:
    """The default callbacks and others of a module; no callback that the user gave to the Trainer is lost.

    If module and Trainer have callbacks of one type, Lightning keeps the module's and drops the Trainer's. So the
    user's callbacks, such as a ModelCheckpoint or an EarlyStopping, are returned together with the module's, unless
    one of the module's has the same `state_key`, under which a checkpoint stores one state. The ModelCheckpoint that
    Lightning adds by itself is removed if there is a `model_dir`, and so are the default callbacks of a module that was
    trained before. With `Trainer(enable_checkpointing=False)` there are no checkpoints, with `barebones=True` there is
    no summary.
    """
    present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
    # Trainer(enable_checkpointing=False) has at most the summaries of a module that was trained before.
    writes_checkpoints = any(type(one) is not DefaultModelEpochSummary for one in trainer.checkpoint_callbacks)
    automatic = next((one for one in trainer.checkpoint_callbacks if _is_automatic(one, trainer)), None)
    if model_dir is None:
        automatic = None  # it is the only one that writes a checkpoint
    present[:] = [one for one in present if type(one) not in OF_THE_MODULE]
    logs_lr = any(isinstance(one, LearningRateMonitor) for one in (*present, *callbacks))
    # Validations inside epochs, or without any. Trainer(val_check_interval=) of time sets no attribute.
    options["save_at_validation"] = getattr(trainer, "val_check_interval", None) != 1.0
    defaults = model_default_callbacks(model_dir, log_lr=bool(trainer.loggers) and not logs_lr, **options)
    if not writes_checkpoints:
        defaults = [one for one in defaults if not isinstance(one, ModelCheckpoint)]
    if trainer.barebones:
        defaults = [one for one in defaults if not isinstance(one, ModelEpochSummary)]
    of_module = [*defaults, *callbacks]
    types = {base for one in of_module for base in type(one).__mro__}  # Lightning drops callbacks of a base class too
    dropped = [one for one in present if type(one) in types and type(one) is not Callback]
    keys = {one.state_key for one in of_module}
    given = [one for one in dropped if one.state_key not in keys and one is not automatic]
    # Removed here, so that Lightning does not drop or overlook them.
    present[:] = [one for one in present if one not in dropped and one is not automatic]
    return [*of_module, *given]


def _is_automatic(callback: Checkpoint, trainer: pl.Trainer) -> bool:
    """Whether Lightning added the callback because the user gave none: it is the only one, with default arguments."""
    plain = ModelCheckpoint()
    return (
        type(callback) is ModelCheckpoint
        and len(trainer.checkpoint_callbacks) == 1
        and callback.state_key == plain.state_key
        and all(
            getattr(callback, name) == getattr(plain, name)
            for name in ("dirpath", "filename", "save_last", "save_top_k", "save_weights_only")
        )
    )
