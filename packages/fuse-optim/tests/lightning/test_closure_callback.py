"""Only the clean pass leaves traces: logged values, metrics, statistics, attributes and calls of hooks."""

from collections import Counter
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.aggregation import CatMetric

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

# A rate of 0 keeps the weights, so what the passes log can be told: one value clean, another one perturbed.
OPTIMIZERS = {
    "sam": lambda params: SAM(params, torch.optim.SGD, rho=0.5, lr=0.0),
    "lbfgs": lambda params: torch.optim.LBFGS(params, lr=1e-30, max_iter=4, tolerance_change=0),
    "plain": lambda params: torch.optim.SGD(params, lr=0.0),
}


class Network(pl.LightningModule):
    def __init__(self, optimizer: str = "sam") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 1))
        self.layers[0] = nn.utils.spectral_norm(self.layers[0])
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.layers[3].parameters())


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 3, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)


def clean_losses(model: Network) -> list[Tensor]:
    """The losses of the micro-batches of an epoch that leaves the weights as they are."""
    twin = Network()
    return [twin.training_step(batch, i).detach() for i, batch in enumerate(loader())]


@pytest.fixture(params=["sam", "lbfgs"])
def optimizer(request):
    return request.param


@pytest.fixture
def trainer(make_trainer):
    return make_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[OptimizerClosureCallback()])


def test_self_log_records_the_clean_pass_once(optimizer, trainer):
    class Logs(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("sum", loss, on_epoch=True, on_step=False, reduce_fx="sum")
            self.log_dict({"mean": loss, "count": 1.0}, on_epoch=True, on_step=True, reduce_fx="mean")
            return loss

    model = Logs(optimizer)
    losses = torch.stack(clean_losses(model))
    trainer.fit(model, loader())
    logged = trainer.callback_metrics
    torch.testing.assert_close(logged["sum"], losses.sum())
    torch.testing.assert_close(logged["mean_epoch"], losses.mean())
    torch.testing.assert_close(logged["mean_step"], losses[-1])


def test_metrics_of_the_module_are_updated_by_the_clean_pass_once(optimizer, trainer):
    class Measures(Network):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.mse = MeanSquaredError()
            self.collection = MetricCollection({"a": MeanSquaredError(), "b": MeanSquaredError(squared=False)})
            self.outputs = CatMetric()
            self.plain = {"mse": MeanSquaredError()}

        def training_step(self, batch, batch_idx):
            output = self.layers(batch[0])
            value = self.mse(output, batch[1])  # forward, whose result is the value of this batch
            self.log("mse", self.mse, on_epoch=True, on_step=False)
            self.log("twice", value * 2, on_epoch=False, on_step=True)
            self.collection.update(output, batch[1])
            self.log_dict(self.collection, on_epoch=True, on_step=False)
            self.outputs.update(output)
            self.plain["mse"].update(output, batch[1])
            return F.mse_loss(output, batch[1])

        def on_train_epoch_end(self):
            self.totals = [int(self.mse.total), len(self.outputs.compute()), int(self.plain["mse"].total)]
            self.last = [metric.compute() for metric in (self.mse, self.collection["a"], self.plain["mse"])]

    model = Measures(optimizer)
    expected = torch.stack(clean_losses(model)).mean()
    trainer.fit(model, loader())
    assert model.totals == [32, 32, 32]
    torch.testing.assert_close(torch.stack(model.last), expected.expand(3))
    torch.testing.assert_close(trainer.callback_metrics["mse"], expected)
    torch.testing.assert_close(trainer.callback_metrics["b"], expected.sqrt())


def test_buffers_move_once(optimizer, trainer):
    model = Network(optimizer)
    twin = Network(optimizer)
    trainer.fit(model, loader())
    for batch in loader():
        twin.training_step(batch, 0)
    assert model.layers[1].num_batches_tracked == 8
    for (name, actual), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda m, name=name: f"{name}: {m}")


def test_attributes_of_the_module_report_the_clean_pass(optimizer, trainer):
    class Collects(Network):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.losses: list[Tensor] = []
            self.calls = 0
            self.by_batch: dict[int, int] = {}
            self.total = torch.zeros(())

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss.detach())
            self.calls += 1
            self.by_batch[batch_idx] = self.by_batch.get(batch_idx, 0) + 1
            self.total += loss.detach()
            self.latest = loss.detach()
            return loss

    model = Collects(optimizer)
    losses, total = model.losses, model.total
    expected = torch.stack(clean_losses(model))
    trainer.fit(model, loader())
    assert model.losses is losses
    assert model.total is total
    torch.testing.assert_close(torch.stack(losses), expected)
    torch.testing.assert_close(total, expected.sum())
    torch.testing.assert_close(model.latest, expected[-1])
    assert model.calls == 8
    assert model.by_batch == dict.fromkeys(range(8), 1)


def test_loggers_that_are_called_directly_get_the_clean_pass_once(optimizer, make_trainer, tmp_path):
    class CallsLogger(Network):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"direct": float(batch_idx)}, step=batch_idx)
            self.logger.experiment.log_metrics({"experiment": 1.0}, step=batch_idx)
            seen.add((self.logger.log_dir, self.logger.save_dir, self.logger.name, self.logger.version))
            return super().training_step(batch, batch_idx)

    seen: set[Any] = set()
    calls: list[dict[str, float]] = []

    class Recording(CSVLogger):
        def log_metrics(self, metrics, step=None):
            calls.append(metrics)

        def save(self):
            """Leave the experiment's values in its memory."""

    logger = Recording(tmp_path, name="run")
    trainer = make_trainer(max_epochs=1, logger=logger, callbacks=[OptimizerClosureCallback()])
    trainer.fit(CallsLogger(optimizer), loader())
    assert [call["direct"] for call in calls if "direct" in call] == list(range(8))
    assert len(logger.experiment.metrics) == 8
    assert seen == {(logger.log_dir, logger.save_dir, "run", 0)}
    assert trainer.loggers == [logger]


def test_hooks_are_called_as_often_as_without_a_second_pass(optimizer, make_trainer):
    names = [
        "on_train_batch_start",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    ]

    def counting(calls: Counter[str]) -> dict[str, Any]:
        return {name: lambda *_, name=name, **__: calls.update([name]) for name in names}

    counts = []
    for step_optimizer in (optimizer, "plain"):
        of_module: Counter[str] = Counter()
        of_callback: Counter[str] = Counter()
        model = type("Counting", (Network,), counting(of_module))(step_optimizer)
        callback = type("Counting", (pl.Callback,), counting(of_callback))()
        trainer = make_trainer(
            max_epochs=1, accumulate_grad_batches=4, callbacks=[callback, OptimizerClosureCallback()]
        )
        trainer.fit(model, loader())
        counts += [of_module, of_callback]
    assert counts == [counts[0]] * 4
    assert counts[0] == dict(zip(names, (8, 2, 8, 8, 2, 8), strict=True))


def test_the_callback_says_which_passes_are_repeated(trainer):
    seen = []

    class Asks(Network):
        def training_step(self, batch, batch_idx):
            (callback,) = [one for one in self.trainer.callbacks if getattr(one, "handles_repeated_closures", False)]
            seen.append((batch_idx, callback.repeated_pass))
            return super().training_step(batch, batch_idx)

    trainer.fit(Asks(), loader())
    assert seen[:4] == [(0, False), (1, False), (0, True), (1, True)]
    assert not trainer.callbacks[0].repeated_pass
