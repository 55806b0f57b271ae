"""Loaders without a batch, which Lightning skips silently."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from .components_by_loader import in_order


def check_loaders_have_batches(trainer: pl.Trainer, stage: str) -> None:
    """Raise ValueError if a loader of a stage has no batch, unless the Trainer's limit is 0 batches."""
    counts, limit, loaders = {
        "fit": (trainer.num_training_batches, trainer.limit_train_batches, trainer.train_dataloader),
        "validate": (trainer.num_val_batches, trainer.limit_val_batches, trainer.val_dataloaders),
        "test": (trainer.num_test_batches, trainer.limit_test_batches, trainer.test_dataloaders),
        "predict": (trainer.num_predict_batches, trainer.limit_predict_batches, trainer.predict_dataloaders),
    }[stage]
    if limit == 0 or loaders is None or not in_order(loaders):
        return
    per_loader: Sequence[Any] = counts if isinstance(counts, list) else [counts]
    for position, count in enumerate(per_loader):
        if count == 0:
            which = "The loader" if len(per_loader) == 1 else f"Loader {position}"
            raise ValueError(
                f"{which} for {TrainerFn(stage).value} gives no batch. Is its dataset empty, shorter than a batch with "
                f"drop_last=True, or limit_*_batches a fraction of less than one batch?"
            )
