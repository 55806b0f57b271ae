"""Block 6, train: the LightningModule, ready-made: model, losses, metrics, optimizer in `LightningModuleDefault`.

For the same written out, to change what a step does, see the style `custom`.
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
    """All that training, validation and prediction need.

    In each step the batch_dict passes through the model, then the losses, whose sum is minimised, then the metrics; at
    an epoch's end `train.losses.<name>`, `validation.metrics.<name>` and so on are logged. It brings the callbacks
    that most runs want: checkpoints of the best epoch and the last one, a table of both after each epoch, and the
    learning rate in the log.
    """
    return LightningModuleDefault(
        model_dir=model_dir,
        model=model,
        losses=task.make_losses(),
        train_metrics=task.make_metrics(),
        validation_metrics=task.make_metrics(),
        test_metrics=task.make_metrics(),  # for Trainer.test. The stages here predict, and evaluate the predictions
        # Callbacks beside the default ones, such as Lightning's EarlyStopping. This one is for SAM, which evaluates a
        # batch twice: it is logged and counted once. With other optimizers it does nothing.
        callbacks=[OptimizerClosureCallback()],
        optimizers_and_lr_schs=lambda module: make_optimizer(module, settings),
        best_epoch_source=task.BEST_EPOCH_SOURCE,
        prediction_keys=task.PREDICTION_KEYS,
        # A loss that becomes NaN or infinite stops the run and names step and samples; "skip" passes over the batch.
        on_nonfinite="raise",
        save_model=True,  # the best epoch's weights as model.safetensors, to be read without this code
    )
