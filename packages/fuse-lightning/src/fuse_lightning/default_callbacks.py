"""The callbacks that most training runs want."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint

from .model_epoch_summary import ModelEpochSummary

BestEpochSource = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def model_default_callbacks(
    model_dir: str | Path, best_epoch_source: BestEpochSource | None = None, log_lr: bool = True
) -> list[Callback]:
    """Checkpoints of the best epoch and the last one, a summary table per epoch, and the learning rate in the log.

    Args:
        model_dir: where `last.ckpt`, `best_epoch.ckpt` and the summary are written.
        best_epoch_source: what tells the best epoch, as arguments of `ModelCheckpoint`: `monitor`, the logged name, and
            `mode`, `"min"` or `"max"`. Several for several checkpoints, which are then called
            `best_epoch_<monitor>.ckpt`. None for none.
        log_lr: log the learning rate; needs a trainer that has a logger.

    Raises:
        TypeError: `best_epoch_source` holds something else than dicts.
        ValueError: an entry of `best_epoch_source` has no `monitor`, or two have the same.
    """
    single = isinstance(best_epoch_source, Mapping | str)
    sources: list[Any] = [best_epoch_source] if single else list(best_epoch_source or [])
    callbacks: list[Callback] = []
    for source in sources:
        if not isinstance(source, Mapping):
            raise TypeError(f"best_epoch_source takes a dict of ModelCheckpoint arguments, or several; got {source!r}.")
        if not source.get("monitor"):
            raise ValueError(
                f"best_epoch_source needs a monitor, the name of a logged value, such as "
                f"{{'monitor': 'validation.losses.total_loss', 'mode': 'min'}}; got {dict(source)}."
            )
        if sum(source["monitor"] == other.get("monitor") for other in sources) > 1:
            raise ValueError(f"best_epoch_source names the monitor {source['monitor']!r} twice; keep one of them.")
        name = "best_epoch" if len(sources) == 1 else f"best_epoch_{source['monitor']}"
        defaults = {"dirpath": model_dir, "filename": name, "mode": "min", "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(**{**defaults, **source}))
    callbacks.append(ModelCheckpoint(dirpath=model_dir, save_last=True, save_top_k=0))
    for source in sources:
        callbacks.append(ModelEpochSummary(model_dir, monitor=source["monitor"], mode=source.get("mode", "min")))
    if log_lr:
        callbacks.append(LearningRateMonitor(logging_interval="epoch"))
    return callbacks
