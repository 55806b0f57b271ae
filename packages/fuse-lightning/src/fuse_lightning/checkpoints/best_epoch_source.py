"""What tells the best epoch, as it is given to LightningModuleDefault."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from fuse_core import nearest_keys

BestEpochSource = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Arguments of `ModelCheckpoint`, or several dicts of them."""

MODES = ("min", "max")


def checked_sources(best_epoch_source: BestEpochSource | None) -> list[Mapping[str, Any]]:
    """The dicts of a `best_epoch_source`; none for None.

    Raises:
        TypeError: it holds something else than dicts, or an argument that ModelCheckpoint lacks.
        ValueError: an entry has no `monitor` or another `mode` than `"min"` or `"max"`, or two have the same monitor.

    Example:
        >>> checked_sources({"monitor": "validation.losses.total_loss", "moed": "min"})
        Traceback (most recent call last):
            ...
        TypeError: best_epoch_source takes arguments of ModelCheckpoint, and 'moed' is none. Did you mean 'mode'?
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
            nearest = nearest_keys(str(name), arguments)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(arguments)}."
            raise TypeError(f"best_epoch_source takes arguments of ModelCheckpoint, and {name!r} is none. {hint}")
    if not (isinstance(source.get("monitor"), str) and source["monitor"]):
        raise ValueError(
            f"best_epoch_source needs a monitor, the name of a logged value, such as "
            f"{{'monitor': 'validation.losses.total_loss', 'mode': 'min'}}; got {dict(source)}."
        )
    if source.get("mode", "min") not in MODES:
        raise ValueError(f"best_epoch_source takes the mode 'min' or 'max', got {source['mode']!r}.")
