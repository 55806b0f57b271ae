"""The Lightning callback for optimizers that call their closure more than once a step."""

import math
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer

from ..momentum_sam import MomentumSAM
from ..optimizer_wrapper import OptimizerWrapper
from .repeated_passes import RepeatedPasses
from .supported_training import refuse_unsupported_training


class OptimizerClosureCallback(pl.Callback):
    """Makes automatic optimization correct for `SAM`, `LBFGS` and all optimizers that call their closure repeatedly.

    Lightning's own closure evaluates only the last micro-batch. With every call, it logs, updates metrics, clips
    gradients and calls the hooks again. With this callback, every call after the first

    - computes the gradients of all micro-batches of the step (`accumulate_grad_batches`), synchronizes them between
      processes once, and returns the loss of the whole step, as the first call does;
    - logs nothing, and does not change metrics, buffers, such as the running statistics of batch normalization, and the
      module's own attributes. If one of them cannot be copied, a warning names it once;
    - calls no hook of the module or of callbacks, only `training_step` and `backward`.

    The module needs no change. `on_before_optimizer_step` and gradient clipping are called once, on the final gradient.
    For an optimizer with a `base_optimizer`, such as `SAM`, that is before the base optimizer's step. An optimizer
    without one, such as `LBFGS`, uses the gradients of all its calls: `on_before_optimizer_step` is called after the
    first, and clipping is refused.

    A step in which every `training_step` returned None is skipped. With `16-mixed` precision, `SAM` skips a step in
    which the gradients of either pass overflow, and the scale is updated once a step. `LBFGS` is refused there.

    `MomentumSAM` needs the callback only for `accumulate_grad_batches` and `16-mixed`. Without it, Lightning evaluates
    the batch before the weights are perturbed, and `MomentumSAM` refuses that.
    If an optimizer has a `start_fraction` but no `total_steps`, the callback sets `total_steps`.

    Other optimizers train as without the callback. If an optimizer of your own calls its closure more than once, set
    `calls_closure_repeatedly = True` on its class. Then unsupported settings are refused before training, not in the
    first step.

    Args:
        replay_rng: whether later passes draw the same random numbers as the first pass, so that dropout masks and
            augmentations match: those of PyTorch, NumPy and Python, and of `torch.Generator`s that are attributes of
            the module. Afterwards the generators continue as after one pass. An optimizer's `replay_rng` also turns it
            on: `SAM` alone could replay only one micro-batch.

    Raises:
        ValueError: at the start of `fit`: manual optimization, `training_step(dataloader_iter)`, strategies that split
            parameters between processes, a second such callback, or a combination refused above.

    Example:
        >>> import torch
        >>> from fuse_optim import SAM
        >>> class Regression(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3, 1)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         loss = self.layer(batch[0]).square().mean()
        ...         self.log("loss", loss)
        ...         return loss
        ...
        ...     def configure_optimizers(self):
        ...         return SAM(self.parameters(), torch.optim.SGD, lr=0.1)
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 3)), batch_size=4)
        >>> trainer = pl.Trainer(
        ...     max_epochs=1,
        ...     accumulate_grad_batches=4,
        ...     callbacks=[OptimizerClosureCallback()],
        ...     accelerator="cpu",
        ...     logger=False,
        ...     enable_checkpointing=False,
        ...     enable_progress_bar=False,
        ...     enable_model_summary=False,
        ... )
        >>> trainer.fit(Regression(), loader)
        >>> trainer.global_step
        2
    """

    handles_repeated_closures = True
    """Tells modules that refuse optimizers with repeated closures that this callback handles them."""

    def __init__(self, replay_rng: bool = False) -> None:
        self.replay_rng = replay_rng
        self._passes: RepeatedPasses | None = None

    @property
    def repeated_pass(self) -> bool:
        """Whether a pass after the first is running.

        A `training_step` finds the callback in `self.trainer.callbacks`. It needs this only if it changes something
        that is neither logged nor kept in the module, such as an average of the weights.
        """
        return self._passes is not None and self._passes.repeating

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace Lightning's methods, also for the steps of a learning rate finder."""
        if stage != "fit":
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, OptimizerClosureCallback) for callback in callbacks) > 1:
            raise ValueError("A trainer takes one OptimizerClosureCallback, got several. Keep one of them.")
        self._passes = RepeatedPasses(trainer, self.replay_rng)
        self._passes.attach()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse unsupported settings. The optimizers are made now."""
        refuse_unsupported_training(trainer, pl_module)
        for optimizer in trainer.optimizers:
            if not isinstance(optimizer, OptimizerWrapper) or optimizer.start_fraction is None or optimizer.total_steps:
                continue
            total = trainer.estimated_stepping_batches
            if not math.isfinite(total):
                raise ValueError(
                    "start_fraction needs a Trainer with max_steps or max_epochs, so that its steps are known."
                )
            optimizer.total_steps = int(total)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Perturb the weights of `MomentumSAM` for a micro-batch."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, MomentumSAM):
                optimizer.perturb_weights()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore the weights of `MomentumSAM`, also between the micro-batches of a step: a validation may follow."""
        self._restore_weights(trainer)

    def _restore_weights(self, trainer: pl.Trainer) -> None:
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, MomentumSAM):
                optimizer.restore_weights()

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Begin a new accumulation window."""
        if self._passes is not None:
            self._passes.window.micro_batches.clear()  # the gradients of the current one come after

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore Lightning's methods."""
        self._detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the weights and Lightning's methods."""
        with suppress(RuntimeError):  # about weights that were written: the exception matters more
            self._restore_weights(trainer)
        self._detach()

    def _detach(self) -> None:
        if self._passes is not None:
            self._passes.detach()
        self._passes = None
