"""What Lightning expects of an optimizer: groups that are assigned, and steps that are counted."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=8)


def plain_sgd(params: Any) -> Any:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def sam(params: Any) -> Any:
    return SAM(params, plain_sgd, rho=0.1)


class Finetuned(pl.LightningModule):
    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return (self.head(torch.relu(self.backbone(batch[0]))) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("unfreeze_at", [1, 3])
def test_a_finetuning_that_is_resumed_trains_where_sgd_does(make_trainer, tmp_path: Path, unfreeze_at):
    equal = {}
    for optimizer in (plain_sgd, sam):

        def fit(model: Any, epochs: int, folder: str, resume: Path | None = None, optimizer: Any = optimizer) -> Any:
            callbacks = [BackboneFinetuning(unfreeze_backbone_at_epoch=unfreeze_at, verbose=False)]
            callbacks += [ModelCheckpoint(tmp_path / optimizer.__name__ / folder, save_last=True)]
            callbacks += [OptimizerClosureCallback()]
            trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
            trainer.fit(model, loader(), ckpt_path=resume)
            return trainer

        whole, half, rest = (Finetuned(optimizer) for _ in range(3))
        fit(whole, 4, "whole")
        fit(half, 2, "half")
        trainer = fit(rest, 4, "rest", tmp_path / optimizer.__name__ / "half" / "last.ckpt")
        equal[optimizer] = all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
        assert len(trainer.optimizers[0].param_groups) == 2
    assert trainer.optimizers[0].param_groups is trainer.optimizers[0].base_optimizer.param_groups
    assert equal[sam] >= equal[plain_sgd]


def test_two_steps_by_hand_are_one_step_of_manual_optimization(make_trainer):
    hooks = []

    class Manual(Finetuned):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.first_step(zero_grad=True)
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.second_step(zero_grad=True)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            hooks.append(type(optimizer))

    model, automatic = Manual(sam), Finetuned(sam)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, loader())
    assert trainer.global_step == 4
    assert hooks == [SAM] * 4
    assert trainer.optimizers[0].param_groups[0]["sam_steps"] == 4
    make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback()]).fit(automatic, loader())
    for ours, expected in zip(model.parameters(), automatic.parameters(), strict=True):
        assert torch.equal(ours, expected)
