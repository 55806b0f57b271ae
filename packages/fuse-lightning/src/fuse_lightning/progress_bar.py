"""What Lightning's progress bars show beside the bar: losses and chosen metrics, within the width of the terminal."""

import functools
import re
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from fuse_core import TOTAL_LOSS

TOTAL = TOTAL_LOSS.rpartition(".")[2]


def shorten_progress_bar(pl_module: pl.LightningModule, losses: Collection[str]) -> None:
    """Have the bar show the values of `short_metrics` while it trains this module.

    A bar with a `get_metrics` of the user's own stays as it is. Names may be added to `losses` later.
    """
    bar: Any = pl_module.trainer.progress_bar_callback
    own = getattr(type(bar), "get_metrics", None)
    if own in (TQDMProgressBar.get_metrics, RichProgressBar.get_metrics) and isinstance(bar, ProgressBar):
        bar.get_metrics = functools.partial(_metrics, bar, pl_module, losses)  # type: ignore[method-assign]


def _metrics(
    bar: ProgressBar, own: pl.LightningModule, losses: Collection[str], trainer: pl.Trainer, pl_module: Any
) -> Any:
    if pl_module is not own:  # fitted later, with the same trainer
        return type(bar).get_metrics(bar, trainer, pl_module)
    room = _room(bar, trainer.current_epoch) if sys.stdout.isatty() else None
    values = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
    of_losses = {name: values.pop(name) for name in list(values) if name in losses}
    return short_metrics(of_losses, values, room)


def _room(bar: ProgressBar, epoch: int) -> int:
    columns = shutil.get_terminal_size().columns
    batches = f"{bar.total_train_batches}/{bar.total_train_batches}"
    if isinstance(bar, RichProgressBar):  # it wraps values that are wider than its bar
        return (columns - len(f"Epoch {epoch:4}  {batches} 0:00:00 • 0:00:00 000.00it/s ")) // 2
    return columns - len(f"Epoch {epoch}: 100%|-| {batches} [00:00<00:00, 000.00it/s]")


def short_metrics(losses: Mapping[str, float], others: Mapping[str, float], room: int | None) -> dict[str, float]:
    """The total loss as `loss`, other values without their mode, and single losses as far as there is room.

    Args:
        losses: the training losses and their total, or nothing.
        others: other values by logged name.
        room: the number of letters; None for no limit.

    Example:
        >>> losses = {"dice": 0.2, "boundary": 0.3, "total_loss": 0.5}
        >>> short_metrics(losses, {"validation.metrics.accuracy": 0.75}, room=40)
        {'loss': 0.5, 'accuracy': 0.75, 'dice': 0.2}
    """
    single = [name for name in losses if name != TOTAL]
    single = single if len(single) > 1 else []  # the total of a single loss is that loss
    short = {name: re.sub(r"^.*?[./](metrics|losses)[./]", "", name) for name in others}
    uses = Counter([*losses, *short.values()])
    shown = {"loss" if "loss" not in (*single, *short.values()) else TOTAL: losses[TOTAL]} if TOTAL in losses else {}
    shown |= {name if uses[one] > 1 else one: others[name] for name, one in short.items()}
    left = None if room is None else room - sum(map(_letters, shown))
    for name in single:
        left = None if left is None else left - _letters(name)
        if left is None or left >= 0:
            shown[name] = losses[name]
    return shown


def _letters(name: str) -> int:
    return len(f", {name}=0.123")
