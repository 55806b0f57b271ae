"""The precisions of Lightning, and loss scaling above all."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback


class Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.network(batch[0]).float(), batch[1].float())

    def configure_optimizers(self) -> Any:
        return SAM(self.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)


class Overflows(Regression):
    """With a loss too large to be scaled, in the second step, clean or perturbed."""

    def __init__(self, in_repeated_pass: bool) -> None:
        super().__init__()
        self.in_repeated_pass = in_repeated_pass

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        (callback,) = self.trainer.callbacks
        overflows = batch_idx == 1 and callback.repeated_pass == self.in_repeated_pass
        return super().training_step(batch, batch_idx) * (1e38 if overflows else 1)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(16, 3, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs.prod(1, keepdim=True)), batch_size=4)


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def half_precision(scale: float = 64.0) -> MixedPrecision:
    # Lightning has no 16-mixed for the CPU of its own, but takes this.
    return MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.fixture
def fit(make_trainer):
    def fit(model: pl.LightningModule, **arguments: Any) -> pl.Trainer:
        trainer = make_trainer(**{"max_epochs": 1, "callbacks": [OptimizerClosureCallback()], **arguments})
        trainer.fit(model, loader())
        return trainer

    return fit


def by_hand(dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """A loop with autocast and a constant scale of the loss."""
    model = Regression()
    optimizer = model.configure_optimizers()
    for inputs, targets in loader():

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = F.mse_loss(model.network(inputs).float(), targets)
            (loss * scale).backward()
            for p in model.parameters():
                p.grad.div_(scale)
            return loss

        optimizer.step(closure)
    return weights(model)


def test_bf16_mixed_equals_a_loop_with_autocast(fit):
    model = Regression()
    fit(model, precision="bf16-mixed")
    assert torch.equal(weights(model), by_hand(torch.bfloat16))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_whole_models_in_other_precisions_train(fit, precision):
    model = Regression()
    fit(model, precision=precision)
    expected = Regression()
    fit(expected)
    assert weights(model).dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    tolerance = {"64-true": 1e-6, "bf16-true": 0.02}[precision]
    torch.testing.assert_close(weights(model).float(), weights(expected), rtol=0, atol=tolerance)


def test_16_mixed_equals_a_loop_with_autocast(fit):
    model = Regression()
    fit(model, plugins=[half_precision()])
    torch.testing.assert_close(weights(model), by_hand(torch.float16, scale=64.0), rtol=0, atol=1e-6)


def test_16_mixed_goes_with_accumulation_and_clips_unscaled_gradients(fit):
    clip, models = 0.01, []
    for arguments in ({"plugins": [half_precision()]}, {"precision": "32-true"}):
        models.append(Regression())
        fit(models[-1], accumulate_grad_batches=4, gradient_clip_val=clip, **arguments)
    change, expected = (weights(model) - weights(Regression()) for model in models)
    torch.testing.assert_close(change.norm(), torch.tensor(0.1 * clip), rtol=1e-3, atol=0)
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("in_repeated_pass", [False, True])
def test_16_mixed_skips_a_step_whose_gradients_overflow_in_either_pass(fit, in_repeated_pass):
    class Records(Overflows):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            history.append((weights(self), self.trainer.precision_plugin.scaler.get_scale()))

        def on_before_optimizer_step(self, optimizer):
            hooks.append(optimizer)

    history: list[tuple[Tensor, float]] = []
    hooks: list[Any] = []
    trainer = fit(Records(in_repeated_pass), plugins=[half_precision()])
    (first, scale), (second, lowered), (third, still), _ = history
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert (scale, lowered, still) == (64.0, 32.0, 32.0)
    assert trainer.global_step == len(hooks) == 4


def test_16_mixed_and_lbfgs_are_refused_before_training(fit):
    class Quasi(Regression):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

        def on_train_start(self):
            raise AssertionError

    with pytest.raises(
        ValueError, match=r"LBFGS does not work with loss scaling .*cannot be stopped between its passes"
    ):
        fit(Quasi(), plugins=[half_precision()])


def test_16_mixed_and_clipping_are_refused_for_a_fused_base_optimizer(fit):
    class Fused(Regression):
        def configure_optimizers(self):
            return SAM(self.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9, fused=True)

    with pytest.raises(
        ValueError,
        match=r"A fused SGD unscales the gradients inside its step, after clipping, but gradient_clip_val=0.5. Leave",
    ):
        fit(Fused(), plugins=[half_precision()], gradient_clip_val=0.5)
    model = Fused()
    fit(model, plugins=[half_precision()])
    torch.testing.assert_close(weights(model), by_hand(torch.float16, scale=64.0), rtol=0, atol=1e-6)


def test_16_mixed_leaves_an_optimizer_that_calls_its_closure_once_to_lightning(fit):
    class Plain(Regression):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    results = []
    for callbacks in ([], [OptimizerClosureCallback()]):
        model = Plain()
        fit(model, plugins=[half_precision()], callbacks=callbacks)
        results.append(weights(model))
    assert torch.equal(*results)


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_16_mixed_skips_a_step_without_any_loss(fit):
    class SkipsFirst(Regression):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx else None

    model = SkipsFirst()
    trainer = fit(model, plugins=[half_precision()], limit_train_batches=1)
    assert torch.equal(weights(model), weights(Regression()))
    assert trainer.global_step == 1
    fit(SkipsFirst(), plugins=[half_precision()])
