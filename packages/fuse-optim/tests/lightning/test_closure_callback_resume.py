"""A run that is killed between steps and resumed from its checkpoint is the run that was never killed."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

BATCHES = 12


class KilledError(Exception):
    pass


class Regression(pl.LightningModule):
    """Takes its batch by its index, because a plain DataLoader does not resume within an epoch."""

    def __init__(self, base: Any, killed_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.base = base
        self.killed_at = killed_at
        self.inputs = torch.randn(BATCHES, 4, 3, generator=torch.Generator().manual_seed(1))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        if batch_idx == self.killed_at:
            raise KilledError

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        inputs = self.inputs[batch_idx]
        return F.mse_loss(self.network(inputs), inputs.prod(1, keepdim=True))

    def configure_optimizers(self) -> Any:
        optimizer = SAM(self.parameters(), self.base, rho=0.1, lr=0.1, interval=2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def momentum(params: Any, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # so that the checkpoints of the killed run stay alone
@pytest.mark.parametrize("base", [momentum, torch.optim.AdamW])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_equals_going_on(make_trainer, tmp_path: Path, base, accumulate):
    def trainer(folder: str) -> pl.Trainer:
        checkpoints = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        settings = {"max_epochs": 1, "accumulate_grad_batches": accumulate, "enable_checkpointing": True}
        return make_trainer(callbacks=[OptimizerClosureCallback(), checkpoints], **settings)

    loader = DataLoader(torch.zeros(BATCHES), batch_size=1)
    uninterrupted = Regression(base)
    trainer("uninterrupted").fit(uninterrupted, loader)

    with pytest.raises(KilledError):
        trainer("killed").fit(Regression(base, killed_at=6), loader)
    steps = {path.name for path in (tmp_path / "killed").iterdir()}
    assert steps == {f"step={step}.ckpt" for step in range(1, 6 // accumulate + 1)}

    resumed, again = Regression(base), trainer("resumed")
    latest = tmp_path / "killed" / f"step={6 // accumulate}.ckpt"
    again.fit(resumed, loader, ckpt_path=latest, weights_only=True)
    assert again.global_step == BATCHES // accumulate
    for (name, actual), expected in zip(resumed.state_dict().items(), uninterrupted.state_dict().values(), strict=True):
        assert torch.equal(actual, expected), name


def test_a_checkpoint_holds_no_copy_of_the_weights_and_nothing_of_the_callback(make_trainer, tmp_path: Path):
    trainer = make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback()])
    trainer.fit(Regression(torch.optim.SGD), DataLoader(torch.zeros(BATCHES), batch_size=1))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["callbacks"] == {}
    (optimizer_state,) = checkpoint["optimizer_states"]
    assert optimizer_state["state"] == {}  # of SGD without momentum
