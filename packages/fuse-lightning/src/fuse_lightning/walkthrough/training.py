"""The walkthrough's training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault
from fuse_optim import SAM

from .data import LABEL, Splits, make_loader
from .network import LOGITS, PROBABILITIES, make_model

BEST_CHECKPOINT = "best_epoch.ckpt"


@dataclass(frozen=True)
class Settings:
    """What a run can be told."""

    run_dir: Path
    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 2e-3
    optimizer: str = "adam"
    seed: int = 0


def make_module(settings: Settings, image_size: int) -> LightningModuleDefault:
    """Model, losses, metrics and optimizer as one LightningModule. Each names the keys it reads."""

    def accuracy() -> MetricDefault:
        metric = MulticlassAccuracy(num_classes=10, average="micro")
        return MetricDefault(pred=LOGITS, target=LABEL, metric=metric)

    return LightningModuleDefault(
        model_dir=settings.run_dir,
        model=make_model(image_size),
        # Losses are added up; the name is the one under which a loss is logged.
        losses={"cross_entropy": LossDefault(pred=LOGITS, target=LABEL, callable=F.cross_entropy)},
        train_metrics={"accuracy": accuracy()},
        validation_metrics={"accuracy": accuracy()},
        test_metrics={"accuracy": accuracy()},
        optimizers_and_lr_schs=lambda module: make_optimizer(module, settings),
        # The loss, not the accuracy, tells the best epoch: on a small validation set many epochs tie in accuracy.
        best_epoch_source={"monitor": "validation.losses.total_loss", "mode": "min"},
        prediction_keys=[PROBABILITIES, LABEL],
    )


def make_optimizer(module: pl.LightningModule, settings: Settings) -> dict[str, Any]:
    """The optimizer, with a learning rate that falls to zero along a cosine."""
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sam":
        optimizer = SAM(module.parameters(), torch.optim.Adam, rho=0.05, lr=settings.learning_rate)
    else:
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def train(settings: Settings, splits: Splits) -> tuple[pl.Trainer, LightningModuleDefault]:
    """Train; writes the checkpoints, the epoch summary and `metrics.csv` to the run folder."""
    pl.seed_everything(settings.seed, workers=True)
    module = make_module(settings, splits.image_size)
    trainer = pl.Trainer(
        default_root_dir=settings.run_dir,
        max_epochs=settings.epochs,
        deterministic=True,
        logger=CSVLogger(settings.run_dir, name="", version=""),
        log_every_n_steps=1,  # values are logged at the ends of epochs, which this keeps Lightning from warning about
    )
    trainer.fit(
        module,
        train_dataloaders=make_loader("train", splits.train, settings.batch_size, training=True),
        val_dataloaders=make_loader("validation", splits.validation, settings.batch_size),
    )
    return trainer, module
