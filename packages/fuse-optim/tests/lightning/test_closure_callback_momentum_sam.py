"""MomentumSAM and late starts with PyTorch Lightning."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM, MomentumSAM
from fuse_optim.lightning import OptimizerClosureCallback


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def samples() -> TensorDataset:
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TensorDataset(inputs, inputs.prod(1, keepdim=True))


def make_optimizer(params: Any) -> MomentumSAM:
    return MomentumSAM(params, torch.optim.SGD, rho=0.3, lr=0.1, momentum=0.9)


class Regression(pl.LightningModule):
    def __init__(self, optimizer: Any = make_optimizer) -> None:
        super().__init__()
        self.network = network()
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated = [p.detach().clone() for p in self.parameters()]

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def trained_by_hand(size: int) -> list[Tensor]:
    model = network()
    optimizer = make_optimizer(model.parameters())
    for inputs, targets in DataLoader(samples(), batch_size=size):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize(("accumulate", "callback"), [(1, False), (1, True), (4, True)])
def test_it_trains_as_in_a_loop_and_validates_the_weights_themselves(make_trainer, accumulate, callback):
    model = Regression()
    callbacks = [OptimizerClosureCallback()] if callback else []
    settings = {"max_epochs": 1, "accumulate_grad_batches": accumulate, "val_check_interval": 1}
    trainer = make_trainer(callbacks=callbacks, num_sanity_val_steps=0, **settings)
    loader = DataLoader(samples(), batch_size=16 // accumulate)
    trainer.fit(model, loader, loader)
    for ours, validated, by_hand in zip(model.parameters(), model.validated, trained_by_hand(16), strict=True):
        assert torch.equal(ours, validated)
        torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=1e-12)


def test_an_exception_between_two_micro_batches_leaves_the_weights_themselves(make_trainer):
    class Fails(Regression):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:  # the second micro-batch of the second step
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 2:
                self.before = trainer.optimizers[0].base_optimizer.param_groups[0]["sam_steps"], self.weights_after_step

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.weights_after_step = [p.detach().clone() for p in self.parameters()]

    model = Fails()
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, DataLoader(samples(), batch_size=4))
    steps, weights = model.before
    assert steps == 1
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_accumulation_without_the_callback_is_refused(make_trainer):
    with pytest.raises(
        RuntimeError, match=r"With precision='16-mixed' or accumulate_grad_batches, .* Give the Trainer"
    ):
        make_trainer(max_epochs=1, accumulate_grad_batches=2).fit(Regression(), DataLoader(samples(), batch_size=4))


def half_precision() -> MixedPrecision:
    # Lightning has no 16-mixed for the CPU of its own, but takes this.
    return MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))


def test_loss_scaling_without_the_callback_is_refused(make_trainer):
    with pytest.raises(RuntimeError, match=r"zero_grad must come before the forward pass.* precision='16-mixed' or"):
        make_trainer(max_epochs=1, plugins=[half_precision()]).fit(Regression(), DataLoader(samples(), batch_size=4))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_loss_scaling_with_the_callback_evaluates_the_batch_at_the_radius(make_trainer, accumulate):
    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # before the weights are perturbed
            pl_module.before = [p.detach().clone() for p in pl_module.parameters()]

    class Recorded(Regression):
        def training_step(self, batch, batch_idx):
            moved = [(p.detach() - w).flatten() for p, w in zip(self.parameters(), self.before, strict=True)]
            radii.append(torch.cat(moved).norm().item())
            return super().training_step(batch, batch_idx)

    radii: list[float] = []
    callbacks = [Recorder(), OptimizerClosureCallback()]
    settings = {"max_epochs": 1, "accumulate_grad_batches": accumulate, "plugins": [half_precision()]}
    make_trainer(callbacks=callbacks, **settings).fit(Recorded(), DataLoader(samples(), batch_size=8))
    assert radii == pytest.approx([0.0] * accumulate + [0.3] * (4 - accumulate))


def test_the_callback_sets_the_number_of_steps_for_a_late_start(make_trainer):
    def late(params: Any) -> SAM:
        return SAM(params, torch.optim.SGD, lr=0.1, start_fraction=0.75)

    model = Regression(late)
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    trainer.fit(model, DataLoader(samples(), batch_size=4))
    assert trainer.optimizers[0].total_steps == 8
    assert trainer.optimizers[0].second_pass_is_due


def test_a_learning_rate_finder_has_a_late_start_in_its_own_steps(make_trainer):
    callback, passes = OptimizerClosureCallback(), []

    class Looks(Regression):
        lr = 0.1

        def training_step(self, batch, batch_idx):
            passes.append(callback.repeated_pass)
            return super().training_step(batch, batch_idx)

    model = Looks(lambda params: SAM(params, torch.optim.SGD, lr=0.1, start_fraction=0.75))
    finder = LearningRateFinder(num_training_steps=4, early_stop_threshold=None)
    trainer = make_trainer(max_epochs=2, callbacks=[callback, finder])
    trainer.fit(model, DataLoader(samples(), batch_size=8))
    assert passes == [*[False] * 4, True, *[False] * 7, True, False, True]  # 4 steps of the finder, 8 of the training
    assert trainer.optimizers[0].total_steps == 8


def test_a_late_start_needs_a_training_with_an_end(make_trainer):
    def late(params: Any) -> SAM:
        return SAM(params, torch.optim.SGD, lr=0.1, start_fraction=0.75)

    trainer = make_trainer(max_epochs=-1, callbacks=[OptimizerClosureCallback()])
    with pytest.raises(ValueError, match="start_fraction needs a Trainer with max_steps or max_epochs"):
        trainer.fit(Regression(late), DataLoader(samples(), batch_size=4))
