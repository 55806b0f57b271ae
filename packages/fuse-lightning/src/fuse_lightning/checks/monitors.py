"""Checks that the values that checkpoints, callbacks and schedules monitor will be logged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, LambdaCallback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from fuse_core import LOSSES, TOTAL_LOSS, did_you_mean, log_name, loss_key

SILENT_PACKAGES = ("fuse_lightning", "fuse_optim", "pytorch_lightning")
"""Packages whose callbacks log nothing but the learning rate."""


def names_to_log(
    model: nn.Module, prefix: str, losses: Mapping[str, Any] | nn.ModuleDict, metrics: Iterable[str], sep: str = "."
) -> list[str]:
    """The names under which losses and metrics are logged, with the losses that components declare to write.

    Example:
        >>> class Autoencoder(nn.Module):
        ...     reads, writes = ("data.image",), ("model.output", "losses.sparsity")
        >>> names_to_log(Autoencoder(), "train", {"l2": nn.Module()}, ["auc"])
        ['train.losses.sparsity', 'train.losses.l2', 'train.losses.total_loss', 'train.metrics.auc']
    """
    written = [key for one in (model, *losses.values()) for key in getattr(one, "writes", None) or ()]
    keys = [key for key in written if key.startswith(f"{LOSSES}.")]
    keys = [*keys, *map(loss_key, losses), TOTAL_LOSS, *(f"metrics.{name}" for name in metrics)]
    return [log_name(*prefix.split("."), *key.split("."), sep=sep) for key in dict.fromkeys(keys)]


def check_monitors(module: pl.LightningModule, ready_made: type, logged: Sequence[str], sep: str = ".") -> None:
    """Refuse a monitor that is never logged.

    A user's subclass or callback may log the monitor, and a model that does not declare its keys may write it as a
    loss. In these cases the check only warns, and only if the monitor is nearly the name of a loss or metric.

    Args:
        module: a module whose training is about to start.
        ready_made: the class that logs nothing but `logged`; the module's class or a base class of it.
        logged: the names that are logged. A metric with several values, or a loss with terms, adds their names.
        sep: the separator in names.

    Raises:
        ValueError: names the monitor, the callback or schedule, the nearest logged name, and all logged names.
    """
    callbacks: list[Callback] = module.trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
    rates = [name for callback in callbacks if isinstance(callback, LearningRateMonitor) for name in callback.lrs]
    known = [*logged, *rates]
    has_terms = any(hasattr(one, "terms") for one in module.modules())
    with_parts = [name for name in logged if has_terms or f"{sep}metrics{sep}" in name]
    any_may_log = _what_may_log(module, ready_made, callbacks)
    model = getattr(module, "model", None)
    loss_may_log = any_may_log or (type(model).__name__ if getattr(model, "writes", None) is None else None)
    for monitor, watcher in _monitors(module.trainer, callbacks).items():
        if monitor in known or any(monitor.startswith(name + sep) for name in with_parts):
            continue
        if module.trainer.limit_val_batches == 0 and monitor.startswith(f"validation{sep}"):
            rank_zero_warn(
                f"{watcher} monitors {monitor!r}, which is not logged, because Trainer(limit_val_batches=0) leaves out "
                f"validation."
            )
            continue
        may_log = loss_may_log if f"{sep}{LOSSES}{sep}" in monitor else any_may_log
        cutoff = 0.6 if may_log is None else 0.85
        hint = did_you_mean(monitor, known, cutoff=cutoff)
        if may_log is None:
            raise ValueError(
                f"{watcher} monitors {monitor!r}, which is never logged.{hint} Logged are: {', '.join(known)}."
            )
        if hint:
            rank_zero_warn(f"{watcher} monitors {monitor!r}, which nothing logs, unless {may_log} does.{hint}")


def _monitors(trainer: pl.Trainer, callbacks: Iterable[Callback]) -> dict[str, str]:
    """The values that must be logged, each with the argument or class that monitors it."""
    monitors: dict[str, str] = {}
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        is_counter = isinstance(callback, ModelCheckpoint) and monitor in ("epoch", "step")  # added by Lightning
        if isinstance(monitor, str) and getattr(callback, "strict", True) and not is_counter:
            monitors.setdefault(monitor, getattr(callback, "monitor_argument", type(callback).__name__))
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None:
            monitors.setdefault(config.monitor, type(config.scheduler).__name__)
    return monitors


def _what_may_log(module: pl.LightningModule, ready_made: type, callbacks: Iterable[Callback]) -> str | None:
    """The name of a class that may log other values: a subclass of the module with methods, or a callback."""
    classes = type(module).__mro__
    for below in classes[: classes.index(ready_made)]:
        if any(callable(value) for name, value in vars(below).items() if name != "__init__"):
            return below.__name__
    for callback in callbacks:
        package = type(callback).__module__.partition(".")[0]
        if package not in SILENT_PACKAGES or isinstance(callback, LambdaCallback):
            return type(callback).__name__
    return None
