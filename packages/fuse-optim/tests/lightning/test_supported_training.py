"""What the callback does not go with is refused before training, with the reason."""

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import Precision
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback


class Network(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())

    def on_train_start(self) -> None:
        raise AssertionError("refused too late")


class CallsOnDemand(torch.optim.SGD):
    """Calls its closure twice, which nobody knows beforehand."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return closure()


@pytest.fixture
def fit(make_trainer):
    def fit(model: pl.LightningModule, **arguments: Any) -> None:
        loader = DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4)
        make_trainer(**{"max_epochs": 1, "callbacks": [OptimizerClosureCallback()], **arguments}).fit(model, loader)

    return fit


def test_manual_optimization_is_refused(fit):
    model = Network()
    model.automatic_optimization = False
    with pytest.raises(ValueError, match=r"Network.automatic_optimization is False.* Remove the callback"):
        fit(model)


def test_manual_optimization_works_without_the_callback(fit):
    class Manual(Network):
        automatic_optimization = False

        def configure_optimizers(self):
            return SAM(self.parameters(), torch.optim.SGD, lr=0.1)

        def on_train_start(self):
            self.before = self.layer.weight.detach().clone()

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                loss = self.layer(batch[0]).square().mean()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

    torch.manual_seed(0)
    model = Manual()
    fit(model, callbacks=[])
    assert model.trainer.global_step == 2
    assert not torch.equal(model.layer.weight, model.before)


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_training_steps_that_draw_their_own_batches_are_refused(fit):
    class Draws(Network):
        def training_step(self, dataloader_iter):
            return None

    with pytest.raises(ValueError, match=r"needs training_step\(batch, batch_idx\).* would draw another one"):
        fit(Draws())


@pytest.mark.parametrize("setting", [{"gradient_clip_val": 0.5}, {}])
def test_clipping_is_refused_for_an_optimizer_without_a_final_gradient(fit, setting):
    class Overrides(Network):
        def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
            pass

    reason = r"gradient_clip_val=0.5" if setting else r"Overrides.configure_gradient_clipping is overridden"
    with pytest.raises(ValueError, match=rf"LBFGS does not work with clipping, but {reason}.*line_search_fn"):
        fit(Network() if setting else Overrides(), **setting)


def test_clipping_is_refused_in_the_second_pass_where_nobody_knew_before(fit):
    class Unknown(Network):
        def configure_optimizers(self):
            return CallsOnDemand(self.parameters(), lr=0.1)

        def on_train_start(self):
            pass

    with pytest.raises(ValueError, match=r"CallsOnDemand does not work with clipping"):
        fit(Unknown(), gradient_clip_val=0.5)
    fit(Unknown())


def test_a_precision_that_steps_in_its_own_way_is_refused(fit):
    class Own(Precision):
        def optimizer_step(self, *_: Any, **__: Any) -> None:
            pass

    with pytest.raises(ValueError, match=r"replaces Precision\.optimizer_step, but Own has its own"):
        fit(Network(), plugins=[Own()])


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_split_parameters_are_refused(strategy):
    # Making a real one needs an accelerator.
    trainer = SimpleNamespace(strategy=strategy.__new__(strategy), precision_plugin=Precision(), callbacks=[])
    with pytest.raises(ValueError, match=rf"does not work with {strategy.__name__}, .* Use a single device or"):
        OptimizerClosureCallback().on_fit_start(trainer, Network())


class Sharp(Network):
    def configure_optimizers(self) -> Any:
        return SAM(self.parameters(), torch.optim.SGD, lr=0.1)

    def on_train_start(self) -> None:
        """It gets as far as the first step."""


def test_accumulation_without_the_callback_is_refused_in_the_first_step(fit):
    message = r"the last batch only, not all 2 of accumulate_grad_batches\. Give the Trainer fuse_optim\.lightning\.Opt"
    with pytest.raises(ValueError, match=message):
        fit(Sharp(), accumulate_grad_batches=2, callbacks=[])
    fit(Sharp(), callbacks=[])


def test_a_second_callback_is_refused(fit):
    with pytest.raises(ValueError, match=r"takes one OptimizerClosureCallback"):
        fit(Network(), callbacks=[OptimizerClosureCallback(), OptimizerClosureCallback()])
