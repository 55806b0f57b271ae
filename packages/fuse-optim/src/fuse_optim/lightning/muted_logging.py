"""Running a training step again without logging its values again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import DummyLogger, Logger

from .replaced_attribute import replaced_attribute


class MutedLogger(Logger):
    """Answers like another logger, and logs nothing: neither its `log_...` methods nor its experiment do anything.

    Args:
        logger: the other logger.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> logger = MutedLogger(CSVLogger("folder", name="run", version=3))
        >>> logger.log_metrics({"loss": 1.0}), logger.log_dir == CSVLogger("folder", name="run", version=3).log_dir
        (None, True)
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @property
    def name(self) -> str | None:
        """The other logger's name."""
        return self._logger.name

    @property
    def version(self) -> int | str | None:
        """The other logger's version."""
        return self._logger.version

    @property
    def save_dir(self) -> str | None:
        """The other logger's folder."""
        return self._logger.save_dir

    @property
    def experiment(self) -> Any:
        """An object whose every method does nothing."""
        return DummyLogger().experiment

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._logger, name)
        return _nothing if callable(value) else value


@contextmanager
def muted_logging(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Have `self.log`, `self.log_dict` and calls of the trainer's loggers do nothing inside.

    Args:
        trainer: the trainer.
        module: the module that logs.
    """
    loggers = trainer.loggers
    trainer.loggers = [MutedLogger(logger) for logger in loggers]
    try:
        with replaced_attribute(module, "log", _nothing), replaced_attribute(module, "log_dict", _nothing):
            yield
    finally:
        trainer.loggers = loggers


def _nothing(*_: Any, **__: Any) -> None:
    pass
