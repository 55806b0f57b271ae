"""Every pass takes all micro-batches of an optimizer step: the result is that of one large batch."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, LearningRateFinder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

SIZE = 4  # of a micro-batch


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()


def samples(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, inputs.prod(1, keepdim=True) + 1)


def sam(params: Any) -> SAM:
    return SAM(params, torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9)


def lbfgs(params: Any) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(params, lr=1.0, max_iter=5, line_search_fn="strong_wolfe")


class Regression(pl.LightningModule):
    def __init__(self, optimizer: Callable[[Any], Any] = sam, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = network(dropout)
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def trained(model: pl.LightningModule, trainer: pl.Trainer, dataset: TensorDataset) -> list[Tensor]:
    trainer.fit(model, DataLoader(dataset, batch_size=SIZE))
    return [p.detach().clone() for p in model.parameters()]


def trained_by_hand(
    steps: list[tuple[int, int, float]], dataset: TensorDataset, optimizer: Callable[[Any], Any] = sam
) -> list[Tensor]:
    """A loop over large batches: their first sample, the one after their last, and a factor of their loss."""
    model = network()
    step_optimizer = optimizer(model.parameters())
    for start, stop, factor in steps:
        inputs, targets = dataset[start:stop]

        def closure(inputs: Tensor = inputs, targets: Tensor = targets, factor: float = factor) -> Tensor:
            step_optimizer.zero_grad()
            loss = factor * F.mse_loss(model(inputs), targets)
            loss.backward()
            return loss

        step_optimizer.step(closure)
    return [p.detach().clone() for p in model.parameters()]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-10)


@pytest.mark.parametrize("optimizer", [sam, lbfgs])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_equals_a_loop_over_large_batches(make_trainer, optimizer, accumulate):
    dataset = samples(32)
    size = SIZE * accumulate
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[OptimizerClosureCallback()])
    actual = trained(Regression(optimizer), trainer, dataset)
    steps = [(start, start + size, 1.0) for start in range(0, 32, size)] * 2
    assert_same(actual, trained_by_hand(steps, dataset, optimizer))
    assert trainer.global_step == len(steps)


def test_single_precision_equals_the_large_batch_to_1e_6(make_trainer):
    single = TensorDataset(*(tensor.float() for tensor in samples(32).tensors))
    weights = []
    for accumulate in (4, 1):
        model = Regression().float()
        trainer = make_trainer(max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[OptimizerClosureCallback()])
        trainer.fit(model, DataLoader(single, batch_size=16 // accumulate))
        weights.append([p.detach() for p in model.parameters()])
    for accumulated, large in zip(*weights, strict=True):
        torch.testing.assert_close(accumulated, large, rtol=0, atol=1e-6)


def test_the_last_short_window_of_an_epoch_is_a_step_scaled_as_lightning_does(make_trainer):
    dataset = samples(24)  # six micro-batches: windows of four and two
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=4, callbacks=[OptimizerClosureCallback()])
    actual = trained(Regression(), trainer, dataset)
    assert_same(actual, trained_by_hand([(0, 16, 1.0), (16, 24, 0.5)] * 2, dataset))
    assert trainer.global_step == 4


@pytest.mark.parametrize("optimizer", [sam, lbfgs])
def test_a_schedule_of_accumulation_is_followed(make_trainer, optimizer):
    dataset = samples(16)
    schedule = GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})
    trainer = make_trainer(max_epochs=3, callbacks=[schedule, OptimizerClosureCallback()])
    actual = trained(Regression(optimizer), trainer, dataset)
    steps = [(i, i + 4, 1.0) for i in (0, 4, 8, 12)] + [(0, 8, 1.0), (8, 16, 1.0), (0, 16, 1.0)]
    assert_same(actual, trained_by_hand(steps, dataset, optimizer))


def test_a_micro_batch_without_a_loss_is_left_out_of_every_pass(make_trainer):
    class SkipsSecond(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    dataset = samples(16)
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    with pytest.warns(UserWarning, match="returned `None`"):
        actual = trained(SkipsSecond(), trainer, dataset)
    assert_same(actual, trained_by_hand([(0, 4, 0.5), (8, 12, 0.5)], dataset))


@pytest.mark.parametrize("optimizer", [sam, lbfgs])
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_step_without_any_loss_is_skipped_but_counted(make_trainer, optimizer):
    class SkipsFirstWindow(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx < 2 else super().training_step(batch, batch_idx)

    dataset = samples(16)
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    actual = trained(SkipsFirstWindow(optimizer), trainer, dataset)
    assert_same(actual, trained_by_hand([(8, 16, 1.0)], dataset, optimizer))
    assert trainer.global_step == 2


def test_training_steps_may_return_a_dict(make_trainer):
    seen = []

    class ReturnsDict(Regression):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "batch_idx": batch_idx}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen.append(outputs["batch_idx"])

    dataset = samples(16)
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    assert_same(trained(ReturnsDict(), trainer, dataset), trained_by_hand([(0, 8, 1.0), (8, 16, 1.0)], dataset))
    assert seen == [0, 1, 2, 3]


def test_an_epoch_that_breaks_off_inside_a_window_leaves_nothing_for_the_next(make_trainer):
    class BreaksOff(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 3 else None

    dataset = samples(16)
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    actual = trained(BreaksOff(), trainer, dataset)
    assert_same(actual, trained_by_hand([(0, 8, 1.0)] * 2, dataset))


def test_a_training_step_may_write_into_the_dict_it_is_given(make_trainer):
    class Writes(Regression):
        def training_step(self, batch, batch_idx):
            assert "seen" not in batch
            batch["seen"] = True
            batch["sample"]["inputs"] = batch["sample"]["inputs"] + 1
            return F.mse_loss(self.network(batch["sample"]["inputs"] - 1), batch["targets"])

    inputs, targets = samples(16).tensors
    dataset = [{"sample": {"inputs": x}, "targets": y} for x, y in zip(inputs, targets, strict=True)]
    model = Writes()
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    trainer.fit(model, DataLoader(dataset, batch_size=SIZE))
    assert_same(list(model.parameters()), trained_by_hand([(0, 8, 1.0), (8, 16, 1.0)], samples(16)))


def test_a_training_step_that_changes_a_tensor_of_its_batch_is_refused(make_trainer):
    class Changes(Regression):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(2)
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback()])
    with pytest.raises(RuntimeError, match=r"changed a tensor of its batch in place \(shape \[4, 3\], torch.float64\)"):
        trained(Changes(), trainer, samples(8))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_later_passes_draw_the_same_random_numbers_if_told_to(make_trainer, accumulate):
    seen = []

    class KeepsMasks(Regression):
        def training_step(self, batch, batch_idx):
            self.network[2].register_forward_hook(lambda *call: seen.append(call[2] == 0))
            try:
                return super().training_step(batch, batch_idx)
            finally:
                self.network[2]._forward_hooks.clear()

    def replaying_sam(params: Any) -> SAM:
        return SAM(params, torch.optim.SGD, rho=0.5, lr=0.1, replay_rng=True)

    masks = {}
    for replay in ("callback", "optimizer", None):
        seen.clear()
        torch.manual_seed(3)
        callback = OptimizerClosureCallback(replay_rng=replay == "callback")
        trainer = make_trainer(max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[callback])
        trained(KeepsMasks(replaying_sam if replay == "optimizer" else sam, dropout=0.5), trainer, samples(16))
        masks[replay] = torch.stack(seen).unflatten(0, (-1, 2, accumulate))
    for replay in ("callback", "optimizer"):
        first, second = masks[replay].unbind(1)
        assert torch.equal(first, second)
        assert len({tuple(mask.flatten().tolist()) for mask in first.flatten(0, 1)}) == 4  # of four micro-batches
    assert not torch.equal(masks[None][:, 0], masks[None][:, 1])


def test_random_numbers_go_on_after_a_replay_as_after_one_pass(make_trainer):
    states = []
    for optimizer in (sam, lambda params: torch.optim.SGD(params, lr=0.1)):
        trainer = make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback(replay_rng=True)])
        trained(Regression(optimizer, dropout=0.5), trainer, samples(16))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("callback_first", [True, False])
def test_a_learning_rate_finder_sees_all_micro_batches_too(make_trainer, callback_first):
    callback, passes = OptimizerClosureCallback(), []
    finder = LearningRateFinder(num_training_steps=3, early_stop_threshold=None)

    class Looks(Regression):
        lr = 0.1

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            passes.append(callback.repeated_pass)
            return super().training_step(batch, batch_idx)

    callbacks = [callback, finder] if callback_first else [finder, callback]
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=callbacks)
    trainer.fit(Looks(), DataLoader(samples(24), batch_size=SIZE))
    assert passes == 6 * [False, False, True, True]  # three steps to find the rate, and three to train


def test_an_overridden_optimizer_step_may_wrap_the_closure(make_trainer):
    class Wraps(Regression):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            optimizer.step(closure=lambda: optimizer_closure())

    dataset = samples(16)
    trainer = make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])
    assert_same(trained(Wraps(), trainer, dataset), trained_by_hand([(0, 8, 1.0), (8, 16, 1.0)], dataset))


def test_an_overridden_optimizer_step_with_another_closure_is_refused(make_trainer):
    class Replaces(Regression):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            optimizer.step(closure=lambda: torch.zeros(()))

    trainer = make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback()])
    with pytest.raises(RuntimeError, match=r"saw no training_step .* must pass on the closure that it gets"):
        trained(Replaces(), trainer, samples(8))
