"""A step of several passes is one step: one clipping of the final gradient, one count, one step of a scheduler."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback


class Regression(pl.LightningModule):
    """Trained with SAM over SGD at a rate of 1, so that the change of the weights is the final gradient."""

    def __init__(self, rho: float = 0.5, lr: float = 1.0, **sam: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2).double()
        self.sam = {"rho": rho, "lr": lr, **sam}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return SAM(self.parameters(), torch.optim.SGD, **self.sam)


def loader(count: int = 16) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(inputs, 3 * inputs[:, :2] + 1), batch_size=4)


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def final_gradient(rho: float = 0.5) -> Tensor:
    """Of the first step, over one window of all samples."""
    model = Regression()
    batch = loader().dataset[:]
    for _ in range(2):
        model.zero_grad()
        model.training_step(batch, 0).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        nn.utils.vector_to_parameters(weights(model) + rho * gradient / gradient.norm(), model.parameters())
    return gradient


@pytest.fixture
def one_step(make_trainer):
    """A function that fits one step over all samples in four micro-batches; returns the change of the weights."""

    def fit(model: pl.LightningModule, **arguments: Any) -> Tensor:
        arguments = {"max_epochs": 1, "accumulate_grad_batches": 4, **arguments}
        before = weights(model)
        make_trainer(callbacks=[OptimizerClosureCallback()], **arguments).fit(model, loader())
        return before - weights(model)

    return fit


def test_clipping_by_norm_applies_to_the_final_gradient_only(one_step):
    gradient = final_gradient()
    clip = 0.1 * float(gradient.norm())
    change = one_step(Regression(), gradient_clip_val=clip)
    torch.testing.assert_close(change, gradient * clip / gradient.norm(), rtol=1e-5, atol=0)


def test_clipping_by_value_applies_to_the_final_gradient_only(one_step):
    gradient = final_gradient()
    clip = 0.5 * float(gradient.abs().max())
    change = one_step(Regression(), gradient_clip_val=clip, gradient_clip_algorithm="value")
    torch.testing.assert_close(change, gradient.clamp(-clip, clip))


def test_an_own_configure_gradient_clipping_is_called_once_on_the_final_gradient(one_step):
    class Clips(Regression):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            assert isinstance(optimizer, SAM)
            for p in self.parameters():
                p.grad.mul_(0.1)

    torch.testing.assert_close(one_step(Clips()), 0.1 * final_gradient())


def test_on_before_optimizer_step_sees_the_final_gradient_and_the_weights_themselves(one_step):
    seen = []

    class Looks(Regression):
        def on_before_optimizer_step(self, optimizer):
            seen.append((type(optimizer), weights(self), torch.cat([p.grad.flatten() for p in self.parameters()])))

    one_step(Looks(), gradient_clip_val=1e-3)
    ((optimizer_type, at_weights, gradient),) = seen
    assert optimizer_type is SAM
    assert torch.equal(at_weights, weights(Looks()))
    torch.testing.assert_close(gradient, final_gradient())


def test_a_step_without_second_pass_is_clipped_once_too(one_step):
    gradient = final_gradient(rho=0.0)
    change = one_step(Regression(interval=2, start_step=1), gradient_clip_val=0.1 * float(gradient.norm()))
    torch.testing.assert_close(change, 0.1 * gradient, rtol=1e-5, atol=0)


def test_steps_without_second_pass_call_the_training_step_once(make_trainer):
    calls = []

    class Counts(Regression):
        def training_step(self, batch, batch_idx):
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

    callback = OptimizerClosureCallback()
    make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[callback]).fit(Counts(interval=2), loader())
    assert calls == [0, 1, 0, 1, 2, 3]


def test_lbfgs_calls_on_before_optimizer_step_once_with_the_clean_gradient(one_step):
    seen = []

    class Looks(Regression):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=4)

        def on_before_optimizer_step(self, optimizer):
            seen.append(torch.cat([p.grad.flatten() for p in self.parameters()]))

    one_step(Looks())
    (gradient,) = seen
    torch.testing.assert_close(gradient, final_gradient(rho=0.0))


def test_steps_are_counted_once(make_trainer):
    model = Regression(lr=0.01)
    trainer = make_trainer(max_steps=3, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    trainer.fit(model, loader(count=64))
    assert trainer.global_step == 3
    assert trainer.fit_loop.epoch_loop.total_batch_idx == 5
    assert trainer.optimizers[0].param_groups[0]["sam_steps"] == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_learning_rate_schedulers_step_once_an_optimizer_step(make_trainer, accumulate):
    class Schedules(Regression):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[OptimizerClosureCallback()])
    trainer.fit(Schedules(lr=1.0), loader())
    assert trainer.optimizers[0].base_optimizer.param_groups[0]["lr"] == 0.5 ** (4 // accumulate)


def test_an_optimizer_that_calls_its_closure_once_trains_as_without_the_callback(make_trainer):
    class Plain(Regression):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    changed = []
    for callbacks in ([], [OptimizerClosureCallback()]):
        model = Plain()
        settings = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.01}
        make_trainer(callbacks=callbacks, **settings).fit(model, loader())
        changed.append(weights(model))
    assert torch.equal(*changed)


def test_another_optimizer_that_repeats_and_wraps_one_is_clipped_when_that_one_steps(one_step):
    class ThreePasses(torch.optim.Optimizer):
        calls_closure_repeatedly = True

        def __init__(self, params, lr):
            self.base_optimizer = torch.optim.SGD(params, lr)
            super().__init__(self.base_optimizer.param_groups, {})

        def step(self, closure):
            for _ in range(3):
                closure()
            self.base_optimizer.step()

    class Repeats(Regression):
        def configure_optimizers(self):
            return ThreePasses(self.parameters(), lr=1.0)

    gradient = final_gradient(rho=0.0)
    change = one_step(Repeats(), gradient_clip_val=0.1 * float(gradient.norm()))
    torch.testing.assert_close(change, 0.1 * gradient, rtol=1e-5, atol=0)


def test_an_exception_in_the_second_pass_leaves_weights_and_trainer_as_they_were(make_trainer):
    class Fails(Regression):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2).double()
            self.calls = 0

        def training_step(self, batch, batch_idx):
            self.calls += 1
            if self.trainer.callbacks[0].repeated_pass:
                raise ZeroDivisionError
            return self.norm(self.layer(batch[0])).square().mean()

    model = Fails()
    before, log = weights(model), model.log
    callback = OptimizerClosureCallback()
    trainer = make_trainer(max_epochs=1, callbacks=[callback])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, loader())
    assert torch.equal(weights(model), before)
    assert model.norm.num_batches_tracked == 1
    assert model.calls == 1
    assert model.log == log
    assert not callback.repeated_pass
    assert not {"training_step", "backward"} & set(vars(trainer.strategy))
    assert "optimizer_step" not in vars(trainer.precision_plugin)


def test_a_trainer_fits_again_after_a_fit_and_is_left_as_it_was(make_trainer):
    callback = OptimizerClosureCallback()
    trainer = make_trainer(max_epochs=1, callbacks=[callback])
    model = Regression(lr=0.01)
    trainer.fit(model, loader())
    assert not {"training_step", "backward"} & set(vars(trainer.strategy))
    assert "optimizer_step" not in vars(trainer.precision_plugin)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, loader())
    assert trainer.global_step == 8


def test_batches_are_let_go_of_after_their_step(make_trainer):
    held = []

    class Looks(Regression):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            held.append(len(self.trainer.callbacks[0]._passes.window.micro_batches))

    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    trainer.fit(Looks(lr=0.01), loader())
    assert held == [1, 0, 1, 0]
