"""Whether what tells the best epoch is going to be logged."""

import re
from collections.abc import Iterable, Sequence

from fuse_core import LOSSES, TOTAL_LOSS, log_name, nearest_keys


def names_to_log(prefix: str, losses: Iterable[str], metrics: Iterable[str], sep: str = ".") -> list[str]:
    """What losses and metrics are logged as, in an epoch of one loader.

    Example:
        >>> names_to_log("train", ["cls"], ["auc"])
        ['train.losses.cls', 'train.losses.total_loss', 'train.metrics.auc']
    """
    total = TOTAL_LOSS.removeprefix(f"{LOSSES}.")
    parts = [*((LOSSES, name) for name in (*losses, total)), *(("metrics", name) for name in metrics)]
    return [log_name(prefix, *part, sep=sep) for part in parts]


def check_monitor(monitor: str, logged: Sequence[str], sep: str = ".") -> None:
    """Raise if a monitor is named like a loss or metric of a mode, but is none that is logged.

    Args:
        monitor: the logged name that tells the best epoch.
        logged: names that are logged; a metric of several values may put them behind its own.
        sep: the separator in names.

    Raises:
        ValueError: with the nearest name, and all of them.
    """
    separator = re.escape(sep)
    if not re.match(rf"(train|validation)({separator}[^{separator}]+)?{separator}(losses|metrics){separator}", monitor):
        return  # logged by the user's own code, perhaps
    if any(monitor == name or monitor.startswith(name + sep) for name in logged):
        return
    nearest = nearest_keys(monitor, dict.fromkeys(logged))
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"best_epoch_source monitors {monitor!r}, which is never logged.{hint} Logged are: {', '.join(logged)}."
    )
