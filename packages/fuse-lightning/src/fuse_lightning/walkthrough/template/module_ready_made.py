"""Block 6, train: the LightningModule. `LightningModuleDefault` combines model, losses, metrics and optimizer.

To change what a step does, use the style `custom`: the same as a LightningModule of your own.
"""

from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from fuse_lightning import LightningModuleDefault
from fuse_optim.lightning import OptimizerClosureCallback

from .optimizer import make_optimizer
from .settings import Settings
from .task import Task

STYLE = "ready-made"


def make_module(task: Task, model: nn.Module, settings: Settings, model_dir: Path) -> pl.LightningModule:
    """Everything that training, validation and prediction need.

    Each step passes the batch_dict through the model, the losses (their sum is minimized) and the metrics. At the end
    of an epoch, `train.losses.<name>`, `validation.metrics.<name>` and so on are logged. Default callbacks write
    checkpoints of the best and the last epoch, print a table after each epoch, and log the learning rate.
    """
    return LightningModuleDefault(
        model_dir=model_dir,
        model=model,
        losses=task.make_losses(),
        train_metrics=task.make_metrics(),
        validation_metrics=task.make_metrics(),
        test_metrics=task.make_metrics(),  # for Trainer.test; the stages of run.py predict instead
        # Add further callbacks here, such as Lightning's EarlyStopping. This one is for SAM, which evaluates a batch
        # twice: the callback has it logged once. With other optimizers it does nothing.
        callbacks=[OptimizerClosureCallback()],
        optimizers_and_lr_schs=lambda module: make_optimizer(module, settings),
        best_epoch_source=task.BEST_EPOCH_SOURCE,
        prediction_keys=task.PREDICTION_KEYS,
        # A NaN or infinite loss stops the run, and names step and samples; "skip" leaves the batch out instead.
        on_nonfinite="raise",
        save_model=True,  # writes the best epoch's weights to model.safetensors, which can be read without this code
    )
