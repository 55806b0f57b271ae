"""Which random numbers a checkpoint brings back."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from fuse_lightning import RandomState


class Fitted(pl.LightningModule):
    """One weight, fitted to its inputs."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer():
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[RandomState()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer()
    trainer.fit(Fitted(), DataLoader(torch.ones(4, 1)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def draw_after(stage, checkpoint, seed):
    torch.manual_seed(seed)
    getattr(make_trainer(), stage)(Fitted(), DataLoader(torch.ones(4, 1)), ckpt_path=checkpoint, weights_only=True)
    return torch.rand(3)


def test_going_on_with_training_brings_back_the_random_numbers(checkpoint):
    assert torch.equal(draw_after("fit", checkpoint, seed=1), draw_after("fit", checkpoint, seed=2))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluating_a_checkpoint_leaves_the_random_numbers_to_the_seed_that_was_set(checkpoint, stage):
    first, again, other = (draw_after(stage, checkpoint, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
