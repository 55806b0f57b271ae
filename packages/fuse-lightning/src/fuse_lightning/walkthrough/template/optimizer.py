"""Block 5, the optimizer and the learning rate's schedule."""

from typing import Any

import pytorch_lightning as pl
import torch

from fuse_optim import SAM

from .settings import Settings


def make_optimizer(module: pl.LightningModule, settings: Settings) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns: an optimizer, and a learning rate that falls along a cosine.

    Sharpness-aware minimization (`--optimizer sam`) looks for weights around which the loss is flat, and generalizes
    better from few or wrongly labelled samples. It takes two passes for each step, so twice the time (with
    `interval=5`, in every fifth step only); any optimizer can be its base. Alternatives: `AdamW` with a
    `weight_decay`; SGD with `momentum=0.9` and a larger learning rate; parameter groups, such as a smaller rate for a
    pretrained backbone:
    `[{"params": module.model.backbone.parameters(), "lr": 1e-4}, {"params": module.model.heads.parameters()}]`.

    The schedule is stepped after each epoch. For one that is stepped after each batch (OneCycleLR) return
    `{"scheduler": scheduler, "interval": "step"}` as `"lr_scheduler"`.
    """
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sam":
        optimizer = SAM(module.parameters(), torch.optim.Adam, rho=0.05, lr=settings.learning_rate)
    else:
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
