"""An optimizer step of Lightning's automatic optimization whose closure may be called more than once.

Only this file depends on how Lightning works inside. It replaces three public methods: `Strategy.training_step` and
`Strategy.backward`, to see which micro-batches the gradients come from, and `Precision.optimizer_step`, which gives the
closure to the optimizer. It uses one private method, `Precision._after_closure`, which calls
`on_before_optimizer_step` and clips the gradients.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from ..optimizer_wrapper import OptimizerWrapper
from ..rng_snapshot import RNGSnapshot
from ..sam import SAM
from .accumulation_window import AccumulationWindow, MicroBatch
from .muted_logging import muted_logging
from .preserved_state import own_generators, preserved_state
from .replaced_attribute import replaced_attribute
from .supported_training import base_optimizer, refuse_clipping


class RepeatedPasses:
    """Gives the optimizer a closure that it may call any number of times.

    The first call is Lightning's own closure, which completes the gradients of the accumulation window. Each later call
    computes the gradients again, at the current weights, from all micro-batches of the window. See
    `OptimizerClosureCallback` for `replay_rng`.
    """

    def __init__(self, trainer: pl.Trainer, replay_rng: bool) -> None:
        self.window = AccumulationWindow()
        self.repeating = False
        """Whether a pass after the first is running."""
        self._trainer = trainer
        self._module = trainer.lightning_module
        self._strategy = trainer.strategy
        self._precision = trainer.precision_plugin
        self._scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        self._replay_rng = replay_rng
        self._training_step = trainer.strategy.training_step
        self._backward = trainer.strategy.backward
        self._optimizer_step = trainer.precision_plugin.optimizer_step
        self._attached = ExitStack()
        self._warned: set[str] = set()  # attributes that cannot be preserved

    def attach(self) -> None:
        """Replace Lightning's methods."""
        for owner, name, method in (
            (self._strategy, "training_step", self._recorded_training_step),
            (self._strategy, "backward", self._recorded_backward),
            (self._precision, "optimizer_step", self._step),
        ):
            self._attached.enter_context(replaced_attribute(owner, name, method))

    def detach(self) -> None:
        """Restore Lightning's methods."""
        self._attached.close()
        self.window.end_step()

    def _recorded_training_step(self, *args: Any, **kwargs: Any) -> Any:
        replay_rng = self._replay_rng or any(getattr(one, "replay_rng", False) for one in self._strategy.optimizers)
        rng = RNGSnapshot([self._strategy.root_device], own_generators(self._module)) if replay_rng else None
        self.window.current = MicroBatch(args, kwargs, rng)
        return self._training_step(*args, **kwargs)

    def _recorded_backward(self, closure_loss: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self._backward(closure_loss, *args, **kwargs)
        self.window.add_gradients(closure_loss)
        return result

    def _step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        known = True
        if isinstance(optimizer, OptimizerWrapper):
            known = optimizer.start_fraction is None or optimizer.total_steps is not None
        # The steps of a learning rate finder come before on_fit_start, which sets total_steps.
        with nullcontext() if known else replaced_attribute(optimizer, "total_steps", self._trainer.max_steps):
            return self._step_of_known_total(optimizer, *args, **kwargs)

    def _step_of_known_total(
        self, optimizer: Optimizer, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        if self._scaler is not None and not isinstance(optimizer, SAM):
            # This optimizer calls its closure once. With loss scaling, Lightning calls it before the step.
            return self._optimizer_step(optimizer, model=model, closure=closure, **kwargs)
        base = base_optimizer(optimizer)
        passes = 0
        prepared = False

        def prepare_gradients(*_: Any) -> None:
            nonlocal prepared
            if not prepared:
                prepared = True
                self._precision._after_closure(model, optimizer)

        def evaluate() -> Tensor:
            nonlocal passes
            passes += 1
            if passes == 2 and base is None:
                refuse_clipping(self._trainer, model, optimizer)
            loss = self._first_pass(closure) if passes == 1 else self._repeated_pass(optimizer)
            if base is None:
                prepare_gradients()
                # A line search decides by the loss, and must decide the same in all processes.
                loss = self._strategy.reduce(loss, reduce_op="mean")
            return loss

        if self._scaler is not None:
            kwargs["grad_scaler"] = self._scaler
        # With a base optimizer, the gradients are final when it steps. Without one, the first pass already uses them.
        hook = nullcontext() if base is None else base.register_step_pre_hook(prepare_gradients)
        try:
            with hook:
                result = optimizer.step(closure=evaluate, **kwargs)  # type: ignore[arg-type]
            if self._scaler is not None:
                self._scaler.update()
        except _StepSkippedError:
            result = None
        finally:
            self.window.end_step()
        prepare_gradients()  # also in a skipped step, because Lightning calls the hooks in any case
        return result

    def _first_pass(self, closure: Callable[[], Any]) -> Tensor:
        closure()
        if self.window.current is None:
            raise RuntimeError(
                "OptimizerClosureCallback saw no training_step before the optimizer's step. Where optimizer_step is "
                "overridden, it must pass on the closure that it gets: optimizer.step(closure=optimizer_closure)."
            )
        if not self.window.micro_batches:  # every training_step of the window returned None
            raise _StepSkippedError
        return self.window.loss()

    def _repeated_pass(self, optimizer: Optimizer) -> Tensor:
        profile = self._trainer.profiler.profile("[OptimizerClosureCallback]repeated_pass")  # type: ignore[attr-defined]
        losses = []
        self.repeating = True
        try:
            optimizer.zero_grad()
            with (
                profile,
                torch.enable_grad(),
                muted_logging(self._trainer, self._module),
                preserved_state(self._module, self._warned),
            ):
                for micro_batch in self.window.micro_batches:
                    is_last = micro_batch is self.window.micro_batches[-1]
                    with nullcontext() if is_last else self._unsynchronized(), micro_batch.random_numbers():
                        losses += self._replay(micro_batch, optimizer)
        finally:
            self.repeating = False
        if not losses:
            raise _StepSkippedError
        loss = torch.stack(losses).sum()
        if all(group.get("sam_rho") == 0 for group in optimizer.param_groups):
            self._compare_losses(loss)
        return loss

    def _compare_losses(self, loss: Tensor) -> None:
        """At a radius of 0, the weights are the same in both passes, so the losses must be equal."""
        name = "different losses"
        if name not in self._warned and not torch.allclose(loss, self.window.loss(), rtol=1e-3, atol=1e-6):
            self._warned.add(name)
            warnings.warn(
                "Both passes have the same weights, because rho is 0, but their losses differ: "
                f"{self.window.loss():.6g} and {loss:.6g}. Either training_step draws random numbers: use "
                "OptimizerClosureCallback(replay_rng=True). Or it takes data from an iterator of its own, so that the "
                "second pass gets other data: let the DataLoader of the Trainer give all data.",
                stacklevel=2,
            )

    def _replay(self, micro_batch: MicroBatch, optimizer: Optimizer) -> list[Tensor]:
        """Evaluate a micro-batch as Lightning does, without hooks; return its loss, if training_step returned one."""
        args, kwargs = micro_batch.arguments()
        output = self._training_step(*args, **kwargs)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return []
        loss = loss / self._trainer.accumulate_grad_batches
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        self._precision.backward(scaled, self._module, optimizer)
        return [loss.detach()]

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        """Do not average gradients over processes, as for all micro-batches but the last."""
        return self._strategy.block_backward_sync() if isinstance(self._strategy, ParallelStrategy) else nullcontext()


class _StepSkippedError(Exception):
    """Raised in the closure, so that the optimizer ends its step without changing the weights."""
