"""Repeat a training step without logging its values again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import DummyLogger, Logger

from .replaced_attribute import replaced_attribute


class MutedLogger:
    """Has the attributes of a logger but logs nothing: its methods and those of its experiment do nothing.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> logger = MutedLogger(CSVLogger("folder", name="run", version=3))
        >>> logger.log_metrics({"loss": 1.0}), logger.name, logger.log_dir
        (None, 'run', 'folder/run/version_3')
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self.experiment = DummyLogger().experiment

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._logger, name)
        return _nothing if callable(value) else value


@contextmanager
def muted_logging(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Within this context, `self.log`, `self.log_dict` and the methods of the trainer's loggers do nothing."""
    loggers = trainer.loggers
    muted: list[Any] = [MutedLogger(logger) for logger in loggers]
    with ExitStack() as contexts:
        for name in ("log", "log_dict"):
            contexts.enter_context(replaced_attribute(module, name, _nothing))
        contexts.callback(setattr, trainer, "loggers", loggers)
        trainer.loggers = muted
        yield


def _nothing(*_: Any, **__: Any) -> None:
    pass
