"""A LightningModule that trains a model over batch_dicts as it is."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from fuse_core import GLOBAL_STEP, TOTAL_LOSS, NDict, loss_key

from .default_callbacks import BestEpochSource, model_default_callbacks
from .epoch_losses import EpochLosses
from .step_functions import (
    epoch_end_compute_and_log_losses,
    epoch_end_compute_and_log_metrics,
    reset_metrics,
    step_extract_predictions,
    step_losses,
    step_metrics,
)

OptimizersAndSchedules: TypeAlias = (
    Callable[[pl.LightningModule], Any] | torch.optim.Optimizer | Mapping[str, Any] | Sequence[Any]
)
"""What `configure_optimizers` returns, or a function that makes it. Not Any: by this a YAML file is read."""


class LightningModuleDefault(pl.LightningModule):
    """Trains, validates, tests and predicts with a model, losses and metrics that work on a batch_dict.

    Each step passes the batch_dict through the model, then through the losses, whose sum is minimised, then through the
    metrics. At an epoch's end `<mode>.losses.<name>`, `<mode>.losses.total_loss` and `<mode>.metrics.<name>` are
    logged, with mode `train`, `validation` or `test`; losses are means over batches, weighted by their samples. Several
    loaders for validation, test or prediction are not supported yet.

    Args:
        model_dir: where checkpoints and the epoch summary are written.
        model: takes a batch_dict and returns it with its outputs added.
        losses: losses by name.
        validation_losses: losses by name for validation and test; None takes `losses`.
        train_metrics: metrics by name, such as `MetricDefault`.
        validation_metrics: as `train_metrics`.
        test_metrics: as `train_metrics`.
        optimizers_and_lr_schs: what `LightningModule.configure_optimizers` returns, or a function of this module that
            returns it. Not needed without training.
        callbacks: callbacks to use beside the default ones.
        best_epoch_source: see `model_default_callbacks`.
        prediction_keys: the keys that `predict` returns, beside `data.sample_id`; see `set_predictions_keys`.

    Raises:
        TypeError: a loss or metric is no module.
        ValueError: no losses, a reserved name, or a monitor missing from `best_epoch_source`.
    """

    def __init__(
        self,
        *,
        model_dir: str | Path,
        model: nn.Module,
        losses: Mapping[str, nn.Module],
        validation_losses: Mapping[str, nn.Module] | None = None,
        train_metrics: Mapping[str, nn.Module] | None = None,
        validation_metrics: Mapping[str, nn.Module] | None = None,
        test_metrics: Mapping[str, nn.Module] | None = None,
        optimizers_and_lr_schs: OptimizersAndSchedules | None = None,
        callbacks: Sequence[Callback] = (),
        best_epoch_source: BestEpochSource | None = None,
        prediction_keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise ValueError("LightningModuleDefault(losses=) needs at least one loss, got none.")
        self.model_dir = Path(model_dir)
        self.model = model
        self.losses = _modules("losses", losses)
        # Shared losses are registered once, so that a checkpoint holds them once.
        self.validation_losses = None if validation_losses is None else _modules("validation_losses", validation_losses)
        self.train_metrics = _modules("train_metrics", train_metrics or {})
        self.validation_metrics = _modules("validation_metrics", validation_metrics or {})
        self.test_metrics = _modules("test_metrics", test_metrics or {})
        self._optimizers_and_lr_schs = optimizers_and_lr_schs
        self._callbacks = list(callbacks)
        self._best_epoch_source = best_epoch_source
        model_default_callbacks(model_dir, best_epoch_source)  # a bad source fails here, not when training starts
        self.prediction_keys: tuple[str, ...] | None = None
        if prediction_keys is not None:
            self.set_predictions_keys(prediction_keys)
        self._epoch_losses = {mode: EpochLosses() for mode in ("train", "validation", "test")}
        self._recorded_batch: int | None = None

    def forward(self, batch_dict: Mapping[str, Any]) -> NDict:
        """The batch_dict with `global_step` and the model's outputs added."""
        batch_dict = batch_dict if isinstance(batch_dict, NDict) else NDict(batch_dict)
        batch_dict[GLOBAL_STEP] = self.global_step
        result = self.model(batch_dict)
        return result if isinstance(result, NDict) else NDict(result)

    def training_step(self, batch_dict: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The sum of the losses of one batch."""
        result = self(batch_dict)
        total = step_losses(self.losses, result)
        # An optimizer such as SAM evaluates a batch more than once. What counts is the first pass, at the weights.
        if batch_idx != self._recorded_batch:
            self._recorded_batch = batch_idx
            self._record("train", result, self.train_metrics)
        return total

    def validation_step(self, batch_dict: Mapping[str, Any], batch_idx: int) -> None:
        """Take in one batch."""
        result = self(batch_dict)
        step_losses(self._evaluation_losses(), result)
        self._record("validation", result, self.validation_metrics)

    def test_step(self, batch_dict: Mapping[str, Any], batch_idx: int) -> None:
        """Take in one batch."""
        result = self(batch_dict)
        step_losses(self._evaluation_losses(), result)
        self._record("test", result, self.test_metrics)

    def predict_step(self, batch_dict: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """The predictions of one batch: `data.sample_id` and the prediction keys."""
        if self.prediction_keys is None:
            raise ValueError(
                "Predicting needs the keys to return. Give LightningModuleDefault(prediction_keys=[...]) or call "
                "set_predictions_keys([...])."
            )
        return step_extract_predictions(self.prediction_keys, self(batch_dict))

    def set_predictions_keys(self, keys: Sequence[str]) -> None:
        """Which keys `predict` returns, beside `data.sample_id`."""
        if isinstance(keys, str):
            raise TypeError(f"prediction_keys takes a sequence of keys, got the string {keys!r}. Use [{keys!r}].")
        self.prediction_keys = tuple(keys)

    def _evaluation_losses(self) -> nn.ModuleDict:
        return self.losses if self.validation_losses is None else self.validation_losses

    def _record(self, mode: str, batch_dict: NDict, metrics: nn.ModuleDict) -> None:
        self._epoch_losses[mode].update(batch_dict)
        step_metrics(metrics, batch_dict)

    def _start_epoch(self, mode: str, metrics: nn.ModuleDict) -> None:
        # An epoch that was interrupted leaves its sums behind.
        self._epoch_losses[mode].reset()
        reset_metrics(metrics)

    def _end_epoch(self, mode: str, metrics: nn.ModuleDict) -> None:
        epoch_end_compute_and_log_losses(self, mode, self._epoch_losses[mode])
        epoch_end_compute_and_log_metrics(self, mode, metrics)

    def on_fit_start(self) -> None:
        """Refuse accumulation with an optimizer that evaluates a batch more than once a step.

        Raises:
            ValueError: such an optimizer accumulates, and its later passes would see the last batch only.
        """
        for optimizer in self.trainer.optimizers:
            repeats = getattr(optimizer, "calls_closure_repeatedly", isinstance(optimizer, torch.optim.LBFGS))
            if repeats and self.trainer.accumulate_grad_batches > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} evaluates its batch more than once a step, which does not go with "
                    f"accumulate_grad_batches={self.trainer.accumulate_grad_batches}: the later passes would see the "
                    f"last batch alone. Use a larger batch instead."
                )

    def on_train_epoch_start(self) -> None:
        """Start from nothing."""
        self._start_epoch("train", self.train_metrics)
        self._recorded_batch = None

    def on_train_epoch_end(self) -> None:
        """Log the epoch."""
        self._end_epoch("train", self.train_metrics)

    def on_validation_epoch_start(self) -> None:
        """Start from nothing."""
        self._start_epoch("validation", self.validation_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._end_epoch("validation", self.validation_metrics)

    def on_test_epoch_start(self) -> None:
        """Start from nothing."""
        self._start_epoch("test", self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the epoch."""
        self._end_epoch("test", self.test_metrics)

    def configure_optimizers(self) -> Any:
        """What `optimizers_and_lr_schs` gave."""
        if self._optimizers_and_lr_schs is None:
            raise ValueError(
                "Training needs an optimizer. Give LightningModuleDefault(optimizers_and_lr_schs=) an optimizer, a "
                "dict of optimizer and lr_scheduler, or a function of the module that returns one."
            )
        if callable(self._optimizers_and_lr_schs):
            return self._optimizers_and_lr_schs(self)
        return self._optimizers_and_lr_schs

    def configure_callbacks(self) -> list[Callback]:
        """The default callbacks and those given."""
        log_lr = bool(self.trainer.loggers)
        return model_default_callbacks(self.model_dir, self._best_epoch_source, log_lr) + self._callbacks


def _modules(argument: str, modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"LightningModuleDefault({argument}=) takes modules, so that they move and save with it, but {name!r} "
                f"is a {type(module).__name__}. Wrap a function in LossDefault, or a metric in MetricDefault."
            )
        if loss_key(name) == TOTAL_LOSS:
            raise ValueError(f"LightningModuleDefault({argument}=): the name {name!r} is taken by the losses' sum.")
    try:
        return nn.ModuleDict(dict(modules))
    except (KeyError, TypeError) as error:
        raise ValueError(f"LightningModuleDefault({argument}=) needs names that a module may have: {error}.") from None
