"""What Lightning's progress bars show beside the bar: losses and chosen metrics, within the width of the terminal."""

import functools
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from fuse_core import TOTAL_LOSS

TOTAL = TOTAL_LOSS.rpartition(".")[2]


def shorten_progress_bar(trainer: pl.Trainer, chosen: Sequence[str]) -> None:
    """Have the bar show the values of `short_metrics`. A bar with a `get_metrics` of the user's own stays as it is.

    Args:
        trainer: the trainer.
        chosen: the logged names that the user wants to see.
    """
    bar: Any = trainer.progress_bar_callback
    own = getattr(type(bar), "get_metrics", None)
    if own in (TQDMProgressBar.get_metrics, RichProgressBar.get_metrics) and isinstance(bar, ProgressBar):
        bar.get_metrics = functools.partial(_metrics, bar, tuple(chosen))  # type: ignore[method-assign]


def _metrics(bar: ProgressBar, chosen: Sequence[str], trainer: pl.Trainer, _: pl.LightningModule) -> Any:
    room = None
    if sys.stdout.isatty():
        batches = bar.total_train_batches
        taken = f"Epoch {trainer.current_epoch}: 100%|-| {batches}/{batches} [00:00<00:00, 00.00it/s"
        room = shutil.get_terminal_size().columns - len(taken)
    values = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
    return short_metrics(values, chosen, room)


def short_metrics(values: Mapping[str, float], chosen: Sequence[str], room: int | None) -> dict[str, float]:
    """The total loss as `loss`, the chosen values without their mode, and single losses as far as there is room.

    Args:
        values: the training losses, and other values by logged name.
        chosen: the names of the other values, in the order to show.
        room: the number of letters; None for no limit.

    Example:
        >>> values = {"dice": 0.2, "boundary": 0.3, "total_loss": 0.5, "validation.metrics.accuracy": 0.75}
        >>> short_metrics(values, ["validation.metrics.accuracy"], room=40)
        {'loss': 0.5, 'accuracy': 0.75, 'dice': 0.2}
    """
    losses = [name for name in values if name not in (*chosen, TOTAL)]
    short = {name: re.sub(r"^.*?[./](metrics|losses)[./]", "", name) for name in chosen if name in values}
    uses = Counter([*losses, *short.values()])
    shown = {"loss" if "loss" not in uses else TOTAL: values[TOTAL]} if TOTAL in values else {}
    shown |= {name if uses[one] > 1 else one: values[name] for name, one in short.items()}
    left = None if room is None else room - sum(map(_letters, shown))
    for name in losses if len(losses) > 1 or not shown else ():  # the total of a single loss is that loss
        left = None if left is None else left - _letters(name)
        if left is None or left >= 0:
            shown[name] = values[name]
    return shown


def _letters(name: str) -> int:
    return len(f", {name}=0.123")
