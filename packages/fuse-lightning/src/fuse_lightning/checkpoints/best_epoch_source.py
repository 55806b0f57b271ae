"""Validates `best_epoch_source`, the choice of the best epoch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from fuse_core import did_you_mean

BestEpochSource = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Arguments of `ModelCheckpoint`, or several dicts of them."""

MODES = ("min", "max")


def checked_sources(best_epoch_source: BestEpochSource | None) -> list[Mapping[str, Any]]:
    """The dicts of a `best_epoch_source`, as a list; an empty list for None.

    Raises:
        TypeError: an entry is not a dict, or has an argument that ModelCheckpoint lacks.
        ValueError: an entry has no `monitor`, its `mode` is not `"min"` or `"max"`, or two have the same monitor.

    Example:
        >>> checked_sources({"monitor": "validation.losses.total_loss", "moed": "min"})
        Traceback (most recent call last):
            ...
        TypeError: best_epoch_source: `ModelCheckpoint` has no argument 'moed'. Did you mean 'mode'?
    """
    single = isinstance(best_epoch_source, Mapping | str)
    sources: list[Any] = [best_epoch_source] if single else list(best_epoch_source or [])
    for source in sources:
        _check(source)
    monitors = [source["monitor"] for source in sources]
    for monitor in monitors:
        if monitors.count(monitor) > 1:
            raise ValueError(f"best_epoch_source names the monitor {monitor!r} twice; keep one of them.")
    return sources


def _check(source: Any) -> None:
    if not isinstance(source, Mapping):
        raise TypeError(f"best_epoch_source takes a dict of ModelCheckpoint arguments, or several; got {source!r}.")
    arguments = list(inspect.signature(ModelCheckpoint).parameters)
    for name in source:
        if name not in arguments:
            hint = did_you_mean(str(name), arguments) or f" Its arguments: {', '.join(arguments)}."
            raise TypeError(f"best_epoch_source: `ModelCheckpoint` has no argument {name!r}.{hint}")
    if not (isinstance(source.get("monitor"), str) and source["monitor"]):
        raise ValueError(
            f"best_epoch_source needs a monitor, the name of a logged value, such as "
            f"{{'monitor': 'validation.losses.total_loss', 'mode': 'min'}}; got {dict(source)}."
        )
    if source.get("mode", "min") not in MODES:
        raise ValueError(f"best_epoch_source takes the mode 'min' or 'max', got {source['mode']!r}.")
