"""Trains six epochs and writes what each logs to `epochs.jsonl`; run and killed by test_resume.py.

Arguments: the folder, `adam` or `sam`, and `kill` to be killed in the middle of an epoch.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import MeanSquaredError

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault, LossWarmUp
from fuse_models import ModelWrapSeqToDict
from fuse_optim import SAM


class ForwardsOnly(nn.Module):
    """A batch without `global_step`, so that the warm-up counts its own forwards."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.reads, self.writes = loss.reads, ()

    def forward(self, batch_dict):
        return self.loss(batch_dict.exclude("global_step"))


class Recorder(pl.Callback):
    def __init__(self, folder, kill):
        self.path = folder / "epochs.jsonl"
        self.kill = kill

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.kill and trainer.current_epoch == 3 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_start(self, trainer, pl_module):  # what the epoch before has logged
        values = {name: value.item().hex() for name, value in sorted(trainer.callback_metrics.items())}
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        with self.path.open("a") as file:
            file.write(json.dumps({"epoch": trainer.current_epoch, "rates": rates, **values}) + "\n")


def loader(count, seed, shuffle):
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    samples = [NDict({"data": {"sample_id": i, "x": x, "y": x.sum(0, keepdim=True)}}) for i, x in enumerate(inputs)]
    return torch.utils.data.DataLoader(samples, batch_size=4, shuffle=shuffle, collate_fn=collate)


def make_optimizer(module, name):
    adam = {"lr": 0.02, "weight_decay": 0.01}
    if name == "sam":
        optimizer = SAM(module.parameters(), torch.optim.Adam, rho=0.1, **adam)
    else:
        optimizer = torch.optim.Adam(module.parameters(), **adam)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.8)}


def train(folder, optimizer, kill=False, resume=False):
    """Shuffling and dropout draw random numbers; batch normalization, warm-ups and Adam keep state."""
    pl.seed_everything(1, verbose=False)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def mse():
        return LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)

    metrics = {
        f"{mode}_metrics": {"mse": MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError())}
        for mode in ("train", "validation")
    }
    module = LightningModuleDefault(
        model_dir=folder,
        model=ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"]),
        losses={
            "mse": mse(),
            "by_step": LossWarmUp(loss=mse(), nof_iterations=14, ramp="linear"),
            "by_forward": ForwardsOnly(LossWarmUp(loss=mse(), nof_iterations=14, ramp="linear")),
        },
        optimizers_and_lr_schs=lambda module: make_optimizer(module, optimizer),
        best_epoch_source={"monitor": "validation.losses.mse"},
        **metrics,
    )
    trainer = pl.Trainer(
        max_epochs=6,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[Recorder(folder, kill)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(22, 0, True), loader(9, 1, False), ckpt_path=folder / "last.ckpt" if resume else None)
    return module, trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), sys.argv[2], kill=sys.argv[3:] == ["kill"])
