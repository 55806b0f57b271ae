"""The callbacks that most training runs want."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from .checkpoints.atomic_checkpoint_io import AtomicCheckpointIO
from .checkpoints.best_epoch_source import BestEpochSource, checked_sources
from .checkpoints.random_state import RandomState
from .model_epoch_summary import ModelEpochSummary
from .run_folder import BEST_CHECKPOINT, LAST_CHECKPOINT, with_monitor


class DefaultModelCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose type tells it from those that users give to the Trainer, which stay as they are.

    It has the Trainer write checkpoints with `AtomicCheckpointIO`, unless another CheckpointIO was chosen.
    """

    monitor_argument = "best_epoch_source"  # where the user gave the monitor, for messages

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose how files are written, before any is read or written."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(trainer, pl_module, stage)


class DefaultModelEpochSummary(ModelEpochSummary):
    """A ModelEpochSummary whose type tells it from those that users give to the Trainer, which stay as they are."""

    monitor_argument = "best_epoch_source"


OF_THE_MODULE = (DefaultModelCheckpoint, DefaultModelEpochSummary, RandomState)


def model_default_callbacks(
    model_dir: str | Path, best_epoch_source: BestEpochSource | None = None, log_lr: bool = True
) -> list[Callback]:
    """Checkpoints of the best epoch and the last one, a summary table per epoch, and the learning rate in the log.

    Args:
        model_dir: where `last.ckpt`, `best_epoch.ckpt` and the summary are written.
        best_epoch_source: what tells the best epoch, as arguments of `ModelCheckpoint`: `monitor`, the logged name, and
            `mode`, `"min"` or `"max"`. Several for several checkpoints, which are then called
            `best_epoch_<monitor>.ckpt`; with `save_top_k` other than 1 a name ends in its epoch and step. None for
            none.
        log_lr: log the learning rate; needs a trainer that has a logger.

    Raises:
        TypeError: `best_epoch_source` holds something else than dicts, or an argument that ModelCheckpoint lacks.
        ValueError: an entry of `best_epoch_source` has no `monitor` or another `mode`, or two have the same monitor.
    """
    sources = checked_sources(best_epoch_source)
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
    last = DefaultModelCheckpoint(  # without a monitor: after every epoch
        dirpath=model_dir, filename=LAST_CHECKPOINT, enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks.append(last)
    callbacks.append(RandomState())
    if log_lr:
        callbacks.append(LearningRateMonitor(logging_interval="epoch"))
    return callbacks


def callbacks_for_trainer(
    trainer: pl.Trainer,
    model_dir: str | Path,
    best_epoch_source: BestEpochSource | None,
    callbacks: Sequence[Callback] = (),
) -> list[Callback]:
    """What `LightningModule.configure_callbacks` returns, so that nothing is lost that the user gave to the Trainer.

    Of callbacks of one type, Lightning keeps the module's and drops the Trainer's. Those that the user gave, such as a
    ModelCheckpoint or an EarlyStopping, are returned with the module's for that reason, unless one of those has the
    same `state_key`, under which a checkpoint holds the state of one. The ModelCheckpoint that Lightning adds by itself
    gives way, and so do the default callbacks of a module that was trained before. A Trainer that was told to write no
    checkpoints writes none, and one that runs with `barebones=True`, and so logs nothing, has no summary.

    Args:
        trainer: the trainer that the callbacks are for.
        model_dir: see `model_default_callbacks`.
        best_epoch_source: see `model_default_callbacks`.
        callbacks: more callbacks of the module's.
    """
    present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
    # Trainer(enable_checkpointing=False) has none, but for the summaries of a module that was trained before.
    writes_checkpoints = any(type(one) is not DefaultModelEpochSummary for one in trainer.checkpoint_callbacks)
    automatic = next((one for one in trainer.checkpoint_callbacks if _is_automatic(one, trainer)), None)
    present[:] = [one for one in present if type(one) not in OF_THE_MODULE]
    logs_lr = any(isinstance(one, LearningRateMonitor) for one in (*present, *callbacks))
    defaults = model_default_callbacks(model_dir, best_epoch_source, log_lr=bool(trainer.loggers) and not logs_lr)
    if not writes_checkpoints:
        defaults = [one for one in defaults if not isinstance(one, ModelCheckpoint)]
    if trainer.barebones:
        defaults = [one for one in defaults if not isinstance(one, ModelEpochSummary)]
    of_module = [*defaults, *callbacks]
    types = {base for one in of_module for base in type(one).__mro__}  # Lightning drops those of a base class too
    dropped = [one for one in present if type(one) in types and type(one) is not Callback]
    keys = {one.state_key for one in of_module}
    given = [one for one in dropped if one.state_key not in keys and one is not automatic]
    # Taken out here, Lightning has none to drop, or to overlook.
    present[:] = [one for one in present if one not in dropped and one is not automatic]
    return [*of_module, *given]


def _is_automatic(callback: Checkpoint, trainer: pl.Trainer) -> bool:
    """Whether Lightning has added it, which it does where the user gave none: it is the only one, and plain."""
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
