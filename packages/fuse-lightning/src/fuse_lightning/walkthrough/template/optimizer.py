"""Block 5, the optimizer and the learning rate schedule."""

from typing import Any

import pytorch_lightning as pl
import torch

from fuse_optim import SAM

from .settings import Settings


def make_optimizer(module: pl.LightningModule, settings: Settings) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns: an optimizer, and a cosine schedule of the learning rate.

    Sharpness-aware minimization (`--optimizer sam`) searches for weights with a flat loss around them. It generalizes
    better from few samples or noisy labels. Each step takes two passes and so twice the time (`interval=5` does this in
    every fifth step only). Any optimizer can be its base.

    Alternatives: `AdamW` with `weight_decay`; SGD with `momentum=0.9` and a larger learning rate; parameter groups, for
    instance with a smaller learning rate for a pretrained backbone:
    `[{"params": module.model.backbone.parameters(), "lr": 1e-4}, {"params": module.model.heads.parameters()}]`.

    The schedule steps after each epoch. For one that steps after each batch (OneCycleLR), return
    `{"scheduler": scheduler, "interval": "step"}` as `"lr_scheduler"`.
    """
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sam":
        optimizer = SAM(module.parameters(), torch.optim.Adam, rho=0.05, lr=settings.learning_rate)
    else:
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
