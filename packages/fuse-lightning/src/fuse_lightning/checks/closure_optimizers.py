"""Optimizers that evaluate a batch more than once a step, such as SAM and L-BFGS."""

from typing import Any

import pytorch_lightning as pl
import torch


def closure_callback(trainer: pl.Trainer) -> Any:
    """The Trainer's callback that handles repeated passes, such as fuse-optim's; None without one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
    return next((one for one in callbacks if getattr(one, "handles_repeated_closures", False)), None)


def check_accumulation(trainer: pl.Trainer) -> None:
    """Refuse gradient accumulation with an optimizer that would evaluate only the last of the accumulated batches.

    Raises:
        ValueError: the Trainer accumulates with such an optimizer and has no callback that handles it.
    """
    if trainer.accumulate_grad_batches == 1 or closure_callback(trainer) is not None:
        return
    for optimizer in trainer.optimizers:
        if getattr(optimizer, "calls_closure_repeatedly", isinstance(optimizer, torch.optim.LBFGS)):
            raise ValueError(
                f"{type(optimizer).__name__} evaluates its batch more than once a step, which does not work with "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}: the later passes would see only the last "
                f"batch. Add fuse_optim.lightning.OptimizerClosureCallback() to the Trainer's callbacks, or use "
                f"a larger batch instead."
            )
