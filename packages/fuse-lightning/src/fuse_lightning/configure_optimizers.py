"""An optimizer and its schedule, configured before the module exists."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class ConfigureOptimizers:
    """A value for `optimizers_and_lr_schs` that a configuration file can describe.

    It makes the optimizer and its schedule when it is called with the module. The optimizer gets all parameters that
    require gradients, those of losses included. If the module has an attribute `lr` that is not None, such as the
    suggestion of `Tuner.lr_find`, it replaces the learning rate.

    Args:
        optimizer: makes the optimizer from parameters; in a file, its class and all arguments but `params`.
        lr_scheduler: makes the schedule from the optimizer; in a file, its class and all arguments but `optimizer`.
        monitor: the logged value that a schedule follows, such as `"validation.losses.total_loss"` for
            `ReduceLROnPlateau`.
        interval: whether the schedule counts epochs or optimizer steps.
        frequency: the number of epochs or steps between two updates of the schedule.

    Raises:
        TypeError: `optimizer` or `lr_scheduler` is not callable.
        ValueError: an unknown `interval`, a `frequency` below 1, or `monitor` without a schedule. When called: no
            parameter to train, or `ReduceLROnPlateau` without `monitor`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> module = pl.LightningModule()
        >>> module.linear = torch.nn.Linear(2, 1)
        >>> configure = ConfigureOptimizers(
        ...     partial(torch.optim.SGD, lr=0.1), partial(torch.optim.lr_scheduler.StepLR, step_size=10)
        ... )
        >>> sorted(configure(module))
        ['lr_scheduler', 'optimizer']
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        *,
        monitor: str | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        frequency: int = 1,
    ) -> None:
        for name, value in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
            if not callable(value) and not (name == "lr_scheduler" and value is None):
                raise TypeError(
                    f"ConfigureOptimizers({name}=) takes a class or function, got {value!r}. Use "
                    f"functools.partial(torch.optim.SGD, lr=0.1), for instance."
                )
        if interval not in ("epoch", "step"):
            raise ValueError(f"ConfigureOptimizers(interval=) is 'epoch' or 'step', got {interval!r}.")
        if frequency < 1:
            raise ValueError(f"ConfigureOptimizers(frequency=) is at least 1, got {frequency}.")
        if monitor is not None and lr_scheduler is None:
            raise ValueError(
                f"ConfigureOptimizers(monitor={monitor!r}) needs a schedule that follows it, but lr_scheduler is None."
            )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.monitor = monitor
        self.interval = interval
        self.frequency = frequency

    def __call__(self, module: pl.LightningModule) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: nothing to train.")
        configured: dict[str, Any] = {"optimizer": self.optimizer(parameters)}
        if getattr(module, "lr", None) is not None:  # suggested by Tuner.lr_find
            for group in configured["optimizer"].param_groups:
                group["lr"] = module.lr
        if self.lr_scheduler is not None:
            scheduler = self.lr_scheduler(configured["optimizer"])
            if isinstance(scheduler, ReduceLROnPlateau) and self.monitor is None:
                raise ValueError(
                    "ReduceLROnPlateau needs a value to follow: give ConfigureOptimizers(monitor=) a logged name, such "
                    "as 'validation.losses.total_loss'."
                )
            configured["lr_scheduler"] = {
                "scheduler": scheduler,
                "interval": self.interval,
                "frequency": self.frequency,
                **({} if self.monitor is None else {"monitor": self.monitor}),
            }
        return configured
