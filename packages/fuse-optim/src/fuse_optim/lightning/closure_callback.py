"""The Lightning callback for optimizers that call their closure more than once a step."""

import pytorch_lightning as pl
from torch.optim import Optimizer

from .repeated_passes import RepeatedPasses
from .supported_training import refuse_unsupported_training


class OptimizerClosureCallback(pl.Callback):
    """Makes automatic optimization right for `SAM`, `LBFGS` and whatever else calls its closure more than once.

    Lightning's own closure evaluates the last micro-batch alone, and logs, updates metrics, clips gradients and calls
    the hooks again with every call. With this callback, and no change of the module, every call after the first

    - takes the gradients of all micro-batches of the step (`accumulate_grad_batches`), synchronized between processes
      once, and returns their whole loss, as the first call does;
    - logs nothing, and leaves metrics, buffers, such as the running statistics of batch normalization, and the module's
      own attributes as the first call left them;
    - calls no hook of the module's or of callbacks. `training_step` and `backward` are called again, of course.

    `on_before_optimizer_step` and gradient clipping come once, on the final gradient: for an optimizer that wraps a
    `base_optimizer`, such as `SAM`, when that one steps. One without, such as `LBFGS`, uses the gradients of all its
    calls; `on_before_optimizer_step` then comes after the first call, and clipping is refused.

    A step in which every `training_step` returned None is skipped. With `16-mixed` precision, `SAM` skips a step in
    which the gradients of either pass overflow, and the scale is adjusted once a step; `LBFGS` is refused.

    Other optimizers train as without the callback. Set `calls_closure_repeatedly = True` on the class of one that calls
    its closure more than once, so that what it does not go with is refused before training rather than in the first
    step.

    Args:
        replay_rng: whether later passes draw the same random numbers of PyTorch as the first, so that dropout masks
            match between passes, and the generators go on as after one pass. Also on if the optimizer has a
            `replay_rng` that is true, which `SAM` alone could not follow for more than one micro-batch.

    Raises:
        ValueError: at the start of `fit`, with the reason: manual optimization,
            `training_step(dataloader_iter)`, strategies that split parameters between processes, a second such
            callback, and the combinations said above.

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
    """For modules that would otherwise refuse an optimizer that calls its closure repeatedly."""

    def __init__(self, replay_rng: bool = False) -> None:
        self.replay_rng = replay_rng
        self._passes: RepeatedPasses | None = None

    @property
    def repeated_pass(self) -> bool:
        """Whether a pass after the first is under way, for a `training_step` that keeps accounts of its own.

        It finds the callback in `self.trainer.callbacks`. Only what is neither logged nor kept in the module itself
        needs it, for instance a weight average that is moved in `training_step`.
        """
        return self._passes is not None and self._passes.repeating

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take part in the optimizer's steps, also in those by which another callback finds a learning rate."""
        if stage != "fit":
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, OptimizerClosureCallback) for callback in callbacks) > 1:
            raise ValueError("A trainer takes one OptimizerClosureCallback, got more. Leave out all but one.")
        self._passes = RepeatedPasses(trainer, self.replay_rng)
        self._passes.attach()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what cannot work, now that the optimizers are made."""
        refuse_unsupported_training(trainer, pl_module)

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """A new accumulation window begins."""
        if self._passes is not None:
            self._passes.window.clear_gradients()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the trainer as it was."""
        self._detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was."""
        self._detach()

    def _detach(self) -> None:
        if self._passes is not None:
            self._passes.detach()
        self._passes = None
