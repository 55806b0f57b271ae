"""Random generators in checkpoints, so that a resumed run draws what the uninterrupted one would have drawn."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

State = dict[str, Any]


class RandomState(Callback):
    """Saves the state of PyTorch's, NumPy's and Python's random generators, of every process, and restores it.

    Shuffling, dropout and augmentation of a run that is resumed at the end of an epoch then equal those of a run that
    was never interrupted. With another number of processes there is no such thing, and the states are left alone; so
    they are where a checkpoint is validated, tested or predicted with, which goes on with no run.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states of all processes; Lightning calls this on each of them."""
        states: list[Any] = [_collect(pl_module.device)]
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            states = states * trainer.world_size
            torch.distributed.all_gather_object(states, _collect(pl_module.device))
        checkpoint["random_states"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Restore this process's state, where a training goes on; Lightning calls this for evaluations too."""
        if trainer.state.fn is not TrainerFn.FITTING:
            return
        states = checkpoint.get("random_states", ())
        if len(states) == trainer.world_size:
            _restore(states[trainer.global_rank])


def _collect(device: torch.device) -> State:
    """The states as tensors and plain values, which can be loaded without unpickling objects."""
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
