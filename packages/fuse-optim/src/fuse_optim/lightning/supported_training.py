"""Refuse training settings that do not work with closures that are called more than once."""

import pytorch_lightning as pl
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch.optim import LBFGS, Optimizer

from ..sam import SAM


def calls_closure_repeatedly(optimizer: Optimizer) -> bool:
    """Whether an optimizer is known to call its closure more than once a step."""
    return isinstance(optimizer, LBFGS) or getattr(optimizer, "calls_closure_repeatedly", False)


def base_optimizer(optimizer: Optimizer) -> Optimizer | None:
    """Return the base optimizer of an optimizer such as SAM: it takes the step after the closure was repeated."""
    base = getattr(optimizer, "base_optimizer", None)
    return base if isinstance(base, Optimizer) and calls_closure_repeatedly(optimizer) else None


def refuse_unsupported_training(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise ValueError for settings that do not work with repeated closures, once the trainer has its optimizers."""
    if not module.automatic_optimization:
        raise ValueError(
            "OptimizerClosureCallback is for automatic optimization, but "
            f"{type(module).__name__}.automatic_optimization is False: the module calls its optimizers' step itself, "
            "and gives them its own closure. Remove the callback."
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(
            "OptimizerClosureCallback needs training_step(batch, batch_idx): a later pass takes the same batch again, "
            "and training_step(dataloader_iter) would draw another one."
        )
    strategy, precision = trainer.strategy, trainer.precision_plugin
    if isinstance(strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
        raise ValueError(
            f"OptimizerClosureCallback does not work with {type(strategy).__name__}, which splits parameters or "
            "gradients between processes or accumulates them itself. Use a single device or strategy='ddp'."
        )
    if type(precision).optimizer_step not in (Precision.optimizer_step, MixedPrecision.optimizer_step):
        raise ValueError(
            f"OptimizerClosureCallback replaces Precision.optimizer_step, but {type(precision).__name__} has its own. "
            "Use another precision, such as '32-true', 'bf16-mixed' or '16-mixed'."
        )
    for optimizer in filter(calls_closure_repeatedly, trainer.optimizers):
        base = base_optimizer(optimizer)
        if base is None:
            refuse_clipping(trainer, module, optimizer)
        if getattr(precision, "scaler", None) is not None:
            _refuse_loss_scaling(trainer, module, optimizer, base)


def refuse_clipping(trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
    """Raise ValueError if gradients are clipped, for an optimizer that uses the gradients of several passes."""
    if clipping := _clipping(trainer, module):
        raise ValueError(
            f"{type(optimizer).__name__} does not work with clipping, but {clipping}. It compares the losses and "
            "gradients of several passes, which clipping would make inconsistent. Leave clipping out; "
            "LBFGS limits its steps by lr and line_search_fn."
        )


def _refuse_loss_scaling(
    trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer, base: Optimizer | None
) -> None:
    if not isinstance(optimizer, SAM):
        raise ValueError(
            f"{type(optimizer).__name__} does not work with loss scaling (precision='16-mixed'), which skips a step "
            "when a gradient overflows: this optimizer cannot be stopped between its passes. Use 'bf16-mixed' or "
            "'32-true', or fuse_optim.SAM."
        )
    clipping = _clipping(trainer, module)
    if clipping and getattr(base, "_step_supports_amp_scaling", False):  # set by fused=True
        raise ValueError(
            f"A fused {type(base).__name__} unscales the gradients inside its step, after clipping, but "
            f"{clipping}. Leave out fused=True, or clipping, or use 'bf16-mixed'."
        )


def _clipping(trainer: pl.Trainer, module: pl.LightningModule) -> str | None:
    """Return the setting that turns clipping on."""
    if is_overridden("configure_gradient_clipping", module):
        return f"{type(module).__name__}.configure_gradient_clipping is overridden"
    return f"gradient_clip_val={trainer.gradient_clip_val}" if trainer.gradient_clip_val else None
