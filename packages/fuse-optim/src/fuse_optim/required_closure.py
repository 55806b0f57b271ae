"""Check the closure given to `SAM.step`."""

from collections.abc import Callable
from typing import Any

_CALLBACK = "give the Trainer fuse_optim.lightning.OptimizerClosureCallback()"


def require_closure(optimizer: str, closure: Callable[[], Any] | None) -> Callable[[], Any]:
    """Return the closure if it evaluates the whole batch of the step.

    Args:
        optimizer: the name of the optimizer's class.
        closure: what its `step` was given.

    Raises:
        ValueError: there is no closure, or it is PyTorch Lightning's own, which evaluates the last micro-batch of
            several.
    """
    if closure is None:
        raise ValueError(
            f"{optimizer}.step needs a closure, because it evaluates the loss twice. Pass a function that calls "
            "zero_grad, computes the loss, calls backward and returns the loss: optimizer.step(closure). With "
            f"Lightning's automatic optimization, {_CALLBACK}; with manual optimization, call "
            "self.optimizers().step(closure=closure). With a GradScaler, call "
            "optimizer.step(closure, grad_scaler=scaler) instead of scaler.step(optimizer)."
        )
    # Lightning's closure is a functools.partial, whose first argument is the LightningModule.
    module: Any = next(iter(getattr(closure, "args", ())), None)
    if getattr(module, "automatic_optimization", False) and module.trainer.accumulate_grad_batches > 1:
        raise ValueError(
            f"{optimizer} got the closure of Lightning's automatic optimization, which evaluates the last batch only, "
            f"not all {module.trainer.accumulate_grad_batches} of accumulate_grad_batches: {_CALLBACK}."
        )
    return closure
