"""Block 6, train: a LightningModule of your own, written from fuse_lightning's step functions.

It computes the same numbers as `LightningModuleDefault` (the style `ready-made`), but every line can be changed:
another step, a second optimizer, losses that start late, anything that Lightning allows.

To keep it short, it leaves out four things that `LightningModuleDefault` does. Add those that you need:

- `on_nonfinite`: a NaN or infinite loss does not stop the run. `Trainer(detect_anomaly=True)` finds the operation that
  caused it, but is slow.
- `save_model`: there is no `model.safetensors`. The weights are in the `state_dict` of `best_epoch.ckpt`, with the
  prefix `model.`. Load the module from it and call `safetensors.torch.save_model(module.model, path)`.
- several loaders for validation or test: each needs its own `EpochLosses` and metrics, chosen by `dataloader_idx`.
- the checks before training that no loader is empty, and that all monitored values are logged.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from fuse_core import GLOBAL_STEP, NDict, Wiring
from fuse_lightning import (
    EpochLosses,
    check_module_contract,
    check_step_wiring,
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
    """Trains, validates and predicts. Lightning calls the methods in the order in which they stand here."""

    def __init__(self, task: Task, model: nn.Module, settings: Settings, model_dir: Path) -> None:
        super().__init__()
        self.task = task
        self.settings = settings
        self.model_dir = model_dir
        # ModuleDicts, so that parameters and counters are moved to the device and saved in checkpoints.
        self.model = model
        self.losses = nn.ModuleDict(task.make_losses())
        # Separate metrics, because validation runs before the training epoch ends.
        self.train_metrics = nn.ModuleDict(task.make_metrics())
        self.validation_metrics = nn.ModuleDict(task.make_metrics())
        self.test_metrics = nn.ModuleDict(task.make_metrics())
        # Sums of the epoch's losses. They stay on the device, so that no step waits for it.
        self.train_losses = EpochLosses()
        self.validation_losses = EpochLosses()
        self.test_losses = EpochLosses()
        # SAM evaluates each batch twice. This callback says which pass it is, and logs one of them.
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
        # The number of steps so far; fuse_losses.LossWarmUp for instance reads it.
        batch_dict[GLOBAL_STEP] = self.global_step
        output: NDict = self.model(batch_dict)
        return output

    def wiring(self, batch_dict: NDict) -> Wiring:
        """Which component writes and reads which key, for the page of the run."""
        return check_step_wiring(batch_dict, self.model, self.losses, self.train_metrics)

    def on_train_epoch_start(self) -> None:
        """Reset the sums; an interrupted epoch leaves its own behind."""
        self.train_losses.reset()
        reset_metrics(self.train_metrics)

    def on_train_batch_start(self, batch_dict: NDict, batch_idx: int) -> None:
        """Check before the first step that shapes, dtypes and gradients of all parts fit together."""
        if self.global_step == 0 and batch_idx == 0:
            check_module_contract(self, batch_dict)

    def training_step(self, batch_dict: NDict, batch_idx: int) -> Tensor:
        """Run model, losses and metrics. Returns the sum of the losses; Lightning calls `backward` on it."""
        batch_dict = self(batch_dict)
        total_loss = step_losses(self.losses, batch_dict)  # writes losses.<name> and losses.total_loss, detached
        if not self.closure_callback.repeated_pass:  # the first pass, at the weights themselves, counts
            self.train_losses.update(batch_dict)
            step_metrics(self.train_metrics, batch_dict)
        return total_loss

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self.validation_losses.reset()
        reset_metrics(self.validation_metrics)

    def validation_step(self, batch_dict: NDict, batch_idx: int) -> None:
        """Like the training step. Lightning has disabled gradients and set the model to `eval`."""
        batch_dict = self(batch_dict)
        step_losses(self.losses, batch_dict)
        self.validation_losses.update(batch_dict)
        step_metrics(self.validation_metrics, batch_dict)

    def on_validation_epoch_end(self) -> None:
        """Log `validation.losses.<name>`, means over samples and processes, and `validation.metrics.<name>`."""
        epoch_end_compute_and_log_losses(self, "validation", self.validation_losses)
        epoch_end_compute_and_log_metrics(self, "validation", self.validation_metrics)

    def on_train_epoch_end(self) -> None:
        """Log `train.losses.<name>` and `train.metrics.<name>`. This runs after the validation."""
        epoch_end_compute_and_log_losses(self, "train", self.train_losses)
        epoch_end_compute_and_log_metrics(self, "train", self.train_metrics)

    def on_test_epoch_start(self) -> None:
        """Reset the sums."""
        self.test_losses.reset()
        reset_metrics(self.test_metrics)

    def test_step(self, batch_dict: NDict, batch_idx: int) -> None:
        """Like the validation step, for `Trainer.test`. The stages of run.py predict instead."""
        batch_dict = self(batch_dict)
        step_losses(self.losses, batch_dict)
        self.test_losses.update(batch_dict)
        step_metrics(self.test_metrics, batch_dict)

    def on_test_epoch_end(self) -> None:
        """Log `test.losses.<name>` and `test.metrics.<name>`."""
        epoch_end_compute_and_log_losses(self, "test", self.test_losses)
        epoch_end_compute_and_log_metrics(self, "test", self.test_metrics)

    def predict_step(self, batch_dict: NDict, batch_idx: int) -> dict[str, Any]:
        """The keys to keep of each batch, including `data.sample_id`."""
        return step_extract_predictions(self.task.PREDICTION_KEYS, self(batch_dict))


def make_module(task: Task, model: nn.Module, settings: Settings, model_dir: Path) -> pl.LightningModule:
    """Everything that training, validation and prediction need."""
    return DigitsModule(task, model, settings, model_dir)
