"""Both passes see the same data: random numbers are replayed, and what cannot be replayed is told."""

import random
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

numpy = pytest.importorskip("numpy")

DRAWS = {
    "NumPy": lambda module: float(numpy.random.beta(1, 1)),
    "Python": lambda module: random.random(),
    "PyTorch": lambda module: torch.rand(()),
    "a generator of the module": lambda module: torch.rand((), generator=module.generator),
}


class Regression(pl.LightningModule):
    def __init__(self, draw: Any, rho: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.generator = torch.Generator().manual_seed(3)
        self.draw = draw
        self.rho = rho

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.layer(batch[0] * self.draw(self)), batch[0][:, :1])

    def configure_optimizers(self) -> Any:
        return SAM(self.parameters(), torch.optim.SGD, rho=self.rho, lr=0.0)


@pytest.fixture
def losses(make_trainer, monkeypatch):
    """A function that fits, and returns the losses of all passes in pairs."""

    def fit(model: Regression, accumulate: int = 1, replay_rng: bool = True) -> Tensor:
        seen: list[float] = []
        original = Regression.training_step

        def recorded(self: Any, batch: Any, batch_idx: int) -> Any:
            loss = original(self, batch, batch_idx)
            seen.append(loss.item())
            return loss

        monkeypatch.setattr(Regression, "training_step", recorded)
        inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
        callback = OptimizerClosureCallback(replay_rng=replay_rng)
        trainer = make_trainer(max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[callback])
        trainer.fit(model, DataLoader(TensorDataset(inputs), batch_size=4))
        return torch.tensor(seen).unflatten(0, (-1, 2, accumulate))

    return fit


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_random_numbers_of_every_kind_are_replayed(losses, kind, accumulate):
    passes = losses(Regression(DRAWS[kind]), accumulate)
    assert torch.equal(passes[:, 0], passes[:, 1])
    assert len(set(passes[:, 0].flatten().tolist())) == 4


@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_generators_go_on_as_after_one_pass(losses, kind):
    following = []
    for rho in (0.0, 0.5):
        random.seed(1)
        numpy.random.seed(1)
        torch.manual_seed(1)
        model = Regression(DRAWS[kind], rho)
        random.seed(1)
        losses(model)
        following.append(float(DRAWS[kind](model)))
    drawn = []
    random.seed(1)
    numpy.random.seed(1)
    model = Regression(DRAWS[kind])
    torch.manual_seed(0)
    nn.Linear(3, 1)  # the module's
    for _ in range(5):
        drawn.append(float(DRAWS[kind](model)))
    assert following[0] == following[1]
    if kind != "PyTorch":  # whose generator the loader uses, too
        assert following[0] == pytest.approx(drawn[4])


@pytest.mark.parametrize("replay_rng", [False, True])
def test_an_iterator_of_its_own_is_told_where_the_radius_is_zero(losses, replay_rng):
    data = iter(torch.arange(1.0, 9.0))
    model = Regression(lambda module: next(data))
    with pytest.warns(
        UserWarning, match=r"rho is 0, but their losses differ: .* from an iterator of its own"
    ) as caught:
        losses(model, replay_rng=replay_rng)
    assert sum("their losses differ" in str(one.message) for one in caught) == 1


def test_random_numbers_that_are_not_replayed_are_told_where_the_radius_is_zero(losses):
    with pytest.warns(UserWarning, match=r"draws random numbers: use OptimizerClosureCallback\(replay_rng=True\)"):
        losses(Regression(DRAWS["Python"]), replay_rng=False)
