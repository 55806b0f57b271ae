"""Block 6, train: the LightningModule written out, a module of your own from fuse_lightning's step functions.

It trains like `LightningModuleDefault` (the style `ready-made`), number for number, in lines that can be changed:
another step, a second optimizer, losses that start late, anything that Lightning allows.

Five things that `LightningModuleDefault` does are left out here, to keep it short. Add what you need of them:

- `on_nonfinite`: a loss that becomes NaN or infinite does not stop the run. `Trainer(detect_anomaly=True)` finds the
  operation that made it, slowly.
- `save_model`: no `model.safetensors`. The weights are in `best_epoch.ckpt`, under `state_dict`, with `model.` before
  their names; `safetensors.torch.save_model(module.model, path)` writes those of a module that was loaded from it.
- several loaders for validation or test: each would need its own `EpochLosses` and metrics, by `dataloader_idx`.
- the check of the first batch's keys within training: `wiring.py` makes it before.
- the checks, before training, that no loader is empty and that what callbacks monitor is logged.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from fuse_core import GLOBAL_STEP, NDict
from fuse_lightning import (
    EpochLosses,
    epoch_end_compute_and_log_losses,
    epoch_end_compute_and_log_metrics,
    model_default_callbacks,
    reset_metrics,
    step_extract_predictions,
    step_losses,
    step_metrics,
)
from fuse_optim.lightning import OptimizerClosureCallback

from .optimizer import make_optimizer
from .settings import Settings
from .task import Task

STYLE = "custom"


class DigitsModule(pl.LightningModule):
    """Trains, validates and predicts; every method is Lightning's, called in the order in which they stand here."""

    def __init__(self, task: Task, model: nn.Module, settings: Settings, model_dir: Path) -> None:
        super().__init__()
        self.task = task
        self.settings = settings
        self.model_dir = model_dir
        # In ModuleDicts, so that what has parameters or counters is moved to the device and saved in checkpoints.
        self.model = model
        self.losses = nn.ModuleDict(task.make_losses())
        # A set of metrics for each, as validation runs while the training epoch is still being counted.
        self.train_metrics = nn.ModuleDict(task.make_metrics())
        self.validation_metrics = nn.ModuleDict(task.make_metrics())
        self.test_metrics = nn.ModuleDict(task.make_metrics())
        # The epoch's losses, added up on the device: nothing is read back in a step, which would make a GPU wait.
        self.train_losses = EpochLosses()
        self.validation_losses = EpochLosses()
        self.test_losses = EpochLosses()
        # Has SAM, which evaluates each batch twice, log once, and tells which pass it is. Others do without it.
        self.closure_callback = OptimizerClosureCallback()

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints of the best and the last epoch, a table of both after each epoch, the learning rate in the log.

        Add callbacks of your own here, such as Lightning's `EarlyStopping(monitor="validation.losses.total_loss")`.
        """
        return [*model_default_callbacks(self.model_dir, self.task.BEST_EPOCH_SOURCE), self.closure_callback]

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule; see optimizer.py."""
        return make_optimizer(self, self.settings)

    def forward(self, batch_dict: NDict) -> NDict:
        """The batch with the model's keys added."""
        # The number of steps so far, for what depends on it: fuse_losses.LossWarmUp for instance.
        batch_dict[GLOBAL_STEP] = self.global_step
        output: NDict = self.model(batch_dict)
        return output

    def on_train_epoch_start(self) -> None:
        """Start counting anew: an epoch that was cut off leaves its sums behind."""
        self.train_losses.reset()
        reset_metrics(self.train_metrics)

    def training_step(self, batch_dict: NDict, batch_idx: int) -> Tensor:
        """Model, losses, metrics. Returns the sum of the losses, which Lightning calls `backward` on."""
        batch_dict = self(batch_dict)
        total_loss = step_losses(self.losses, batch_dict)  # writes losses.<name> and losses.total_loss, detached
        if not self.closure_callback.repeated_pass:  # what counts is the first pass, at the weights themselves
            self.train_losses.update(batch_dict)
            step_metrics(self.train_metrics, batch_dict)
        return total_loss

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self.validation_losses.reset()
        reset_metrics(self.validation_metrics)

    def validation_step(self, batch_dict: NDict, batch_idx: int) -> None:
        """As the training step, without gradients: Lightning has switched them off, and the model to `eval`."""
        batch_dict = self(batch_dict)
        step_losses(self.losses, batch_dict)
        self.validation_losses.update(batch_dict)
        step_metrics(self.validation_metrics, batch_dict)

    def on_validation_epoch_end(self) -> None:
        """Log `validation.losses.<name>`, means over samples and processes, and `validation.metrics.<name>`."""
        epoch_end_compute_and_log_losses(self, "validation", self.validation_losses)
        epoch_end_compute_and_log_metrics(self, "validation", self.validation_metrics)

    def on_train_epoch_end(self) -> None:
        """Log `train.losses.<name>` and `train.metrics.<name>`. Lightning validates before it ends the epoch."""
        epoch_end_compute_and_log_losses(self, "train", self.train_losses)
        epoch_end_compute_and_log_metrics(self, "train", self.train_metrics)

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self.test_losses.reset()
        reset_metrics(self.test_metrics)

    def test_step(self, batch_dict: NDict, batch_idx: int) -> None:
        """As the validation step, for `Trainer.test`. The stages here predict instead, and evaluate the predictions."""
        batch_dict = self(batch_dict)
        step_losses(self.losses, batch_dict)
        self.test_losses.update(batch_dict)
        step_metrics(self.test_metrics, batch_dict)

    def on_test_epoch_end(self) -> None:
        """Log `test.losses.<name>` and `test.metrics.<name>`."""
        epoch_end_compute_and_log_losses(self, "test", self.test_losses)
        epoch_end_compute_and_log_metrics(self, "test", self.test_metrics)

    def predict_step(self, batch_dict: NDict, batch_idx: int) -> dict[str, Any]:
        """The keys to keep of each batch, `data.sample_id` among them."""
        return step_extract_predictions(self.task.PREDICTION_KEYS, self(batch_dict))


def make_module(task: Task, model: nn.Module, settings: Settings, model_dir: Path) -> pl.LightningModule:
    """All that training, validation and prediction need."""
    return DigitsModule(task, model, settings, model_dir)
