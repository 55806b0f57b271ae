"""Random states in checkpoints, so that a resumed run draws the same numbers as an uninterrupted one."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from ..processes import of_all_processes

State = dict[str, Any]


class RandomState(Callback):
    """Saves the random states of PyTorch, NumPy and Python on every process, and restores them when training resumes.

    Shuffling, dropout and augmentation of a resumed run then equal those of an uninterrupted run. The states are not
    restored if the number of processes has changed, or if the checkpoint is loaded to validate, test or predict.

    Example:
        `model_default_callbacks` holds it. Without these callbacks:

        >>> trainer = pl.Trainer(callbacks=[RandomState()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        self._restored: State | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states of all processes. Lightning calls this on every process."""
        checkpoint["random_states"] = of_all_processes(_collect(pl_module.device))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Restore this process's state if training resumes. Lightning calls this for evaluations too."""
        if trainer.state.fn is not TrainerFn.FITTING:
            return
        states = checkpoint.get("random_states", ())
        if len(states) == trainer.world_size:
            self._restored = states[trainer.global_rank]
            _restore(self._restored)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state again inside an epoch: making the loader's iterator has drawn a number.

        At an epoch's end, that number belongs to the next epoch's iterator.
        """
        if self._restored is not None and trainer.fit_loop.restarting:
            _restore(self._restored)
        self._restored = None


def _collect(device: torch.device) -> State:
    """The states as tensors and plain values, which load without unpickling objects."""
    name, keys, position, has_gauss, cached_gaussian = np.random.get_state(legacy=True)
    state: State = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached_gaussian),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
