"""`result.json`: the best epoch of a training, for programs that compare runs."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from fuse_lightning.checkpoints.atomic_file import replace_file


def best_result(trainer: pl.Trainer) -> dict[str, Any]:
    """The monitored value of the best epoch, by the first checkpoint callback that monitors one.

    Returns:
        A dict of `monitor`, `mode`, `value`, `epoch` (counted from 0) and `checkpoint`, a path. If nothing is monitored
        or no epoch was finite, `value` is None, and the others may be.
    """
    best: Any = next((one for one in trainer.checkpoint_callbacks if getattr(one, "monitor", None)), None)
    result: dict[str, Any] = dict.fromkeys(("monitor", "mode", "value", "epoch", "checkpoint"))
    if best is None:
        return result
    result.update(monitor=best.monitor, mode=best.mode)
    score = best.best_model_score
    if score is not None and torch.isfinite(torch.as_tensor(score)) and Path(best.best_model_path).is_file():
        checkpoint = torch.load(best.best_model_path, map_location="cpu", mmap=True, weights_only=True)
        result.update(value=float(score), epoch=checkpoint["epoch"], checkpoint=str(best.best_model_path))
    return result


def write_result(trainer: pl.Trainer, path: Path) -> None:
    """Write the best result to a JSON file, and print it."""
    result = best_result(trainer)
    with replace_file(path) as file:
        file.write((json.dumps(result, indent=2) + "\n").encode())
    if result["value"] is not None:
        print(f"best {result['monitor']}: {result['value']:.6g}, epoch {result['epoch']}, {result['checkpoint']}")  # noqa: T201
