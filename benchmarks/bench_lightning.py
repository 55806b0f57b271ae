# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-lightning", "fuse-losses", "fuse-models", "pandas", "scikit-learn"]
#
# [tool.bench]
# # Its LightningModule alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Training time of LightningModuleDefault beside a bare loop, a hand-written module and fuse-med-ml's, and import time.

    nox -s "bench(lightning)" -- [--rounds 5] [--epochs 5] [--threads 2]

A small convolutional network learns scikit-learn's digits in batches of 32, which are in memory already: the loop is
measured, not the loading. Candidates take turns, a whole `fit` each, so that a busy machine slows all of them; the
figure is the median over all epochs but the first of each fit, from the start of one epoch to the start of the next.
"""

import argparse
import importlib.metadata
import itertools
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import NDict
from fuse_lightning import LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

BATCH_SIZE = 32
IMAGE, LABEL, SAMPLE_ID, LOGITS = "data.image", "data.label", "data.sample_id", "model.logits.digit"


def import_fuse_med_ml() -> tuple[type, type]:
    """Its module and its NDict; what it imports and does not need here is replaced by nothing."""
    while True:
        try:
            from fuse.dl.lightning.pl_module import LightningModuleDefault as Module
            from fuse.utils import NDict as PeerNDict
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "fuse":
                raise
            sys.modules[error.name] = MagicMock()
            for name in [name for name in sys.modules if name.partition(".")[0] == "fuse"]:
                del sys.modules[name]
        else:
            return Module, PeerNDict


def network() -> nn.Sequential:
    """The same network for all."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 16, 120),
        nn.ReLU(),
        nn.Linear(120, 10),
    )


class Batches:
    """A loader of batches that are in memory."""

    def __init__(self, make: Callable[[Tensor, Tensor, list[int]], Any]) -> None:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        ids = torch.arange(len(labels)).split(BATCH_SIZE)
        self.parts = [(images[part], labels[part], part.tolist()) for part in ids]
        self.make = make

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return (self.make(*part) for part in self.parts)


class HandWritten(pl.LightningModule):
    """What one writes without any of these packages; logs nothing, the loss, or the loss and the accuracy."""

    def __init__(self, loss: bool = False, accuracy: bool = False) -> None:
        super().__init__()
        self.network = network()
        self.logs_loss = loss
        self.accuracy = MulticlassAccuracy(10, average="micro") if accuracy else None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        logits = self.network(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        if self.logs_loss:
            self.log("train.loss", loss, on_step=False, on_epoch=True)
        if self.accuracy is not None:
            self.accuracy.update(logits, batch[1])
            self.log("train.accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as for all."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class PeerAccuracy:
    """The same accuracy with fuse-med-ml's interface."""

    def __init__(self) -> None:
        self.metric = MulticlassAccuracy(10, average="micro")

    def collect(self, batch: Any) -> None:
        """Take in one batch."""
        self.metric.update(batch[LOGITS].detach(), batch[LABEL])

    def eval(self, results: Any = None) -> float:
        """The accuracy."""
        return self.metric.compute().item()

    def reset(self) -> None:
        """Forget everything."""
        self.metric.reset()


class EpochTimes(pl.Callback):
    """When each epoch starts, and when the last one ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def options(metrics: Any, folder: str, model: nn.Module) -> dict[str, Any]:
    """Arguments that ours and fuse-med-ml's module have in common."""
    loss = LossDefault(pred=LOGITS, target=LABEL, callable=F.cross_entropy)
    return {
        "model_dir": folder,
        "model": model,
        "losses": {"cross_entropy": loss},
        "train_metrics": {"accuracy": metrics},
        "optimizers_and_lr_schs": lambda module: torch.optim.Adam(module.parameters(), lr=1e-3),
    }


def wrapped() -> ModelWrapSeqToDict:
    """The network over a batch_dict."""
    return ModelWrapSeqToDict(model=network(), model_inputs=[IMAGE], model_outputs=[LOGITS])


class PeerModel(nn.Module):
    """The network over fuse-med-ml's batch_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, batch_dict: Any) -> Any:
        """Add the logits."""
        batch_dict[LOGITS] = self.network(batch_dict[IMAGE])
        return batch_dict


def bare_loop(epochs: int, _: str) -> list[float]:
    """Nothing but PyTorch."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = Batches(lambda image, label, _: (image, label))
    times = [time.perf_counter()]
    for _epoch in range(epochs):
        for image, label in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(image), label).backward()
            optimizer.step()
        times.append(time.perf_counter())
    return times


def fit(make_module: Callable[[str], pl.LightningModule], make_batch: Callable[..., Any]) -> Callable[..., list[float]]:
    """A candidate that a Trainer trains."""

    def run(epochs: int, folder: str) -> list[float]:
        clock = EpochTimes()
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(folder),
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(make_module(folder), Batches(make_batch))
        return clock.times

    return run


def candidates() -> dict[str, Callable[..., list[float]]]:
    """All by name."""
    peer_module, peer_ndict = import_fuse_med_ml()

    def as_tuple(image: Tensor, label: Tensor, _: list[int]) -> Any:
        return image, label

    def as_ndict(image: Tensor, label: Tensor, ids: list[int]) -> Any:
        return NDict({IMAGE: image, LABEL: label, SAMPLE_ID: ids})

    def as_peer_ndict(image: Tensor, label: Tensor, ids: list[int]) -> Any:
        return peer_ndict({IMAGE: image, LABEL: label, SAMPLE_ID: ids})

    def ours(folder: str) -> pl.LightningModule:
        metric = MetricDefault(pred=LOGITS, target=LABEL, metric=MulticlassAccuracy(10, average="micro"))
        return LightningModuleDefault(**options(metric, folder, wrapped()))

    def peer(folder: str) -> pl.LightningModule:
        return peer_module(**options(PeerAccuracy(), folder, PeerModel()))

    return {
        "bare loop": bare_loop,
        "hand-written, nothing logged": fit(lambda _: HandWritten(), as_tuple),
        "hand-written, one self.log": fit(lambda _: HandWritten(loss=True), as_tuple),
        "hand-written, loss and accuracy logged": fit(lambda _: HandWritten(loss=True, accuracy=True), as_tuple),
        "fuse-med-ml 0.4.1 LightningModuleDefault": fit(peer, as_peer_ndict),
        "fuse_lightning LightningModuleDefault": fit(ours, as_ndict),
    }


def measure(rounds: int, epochs: int) -> dict[str, float]:
    """Milliseconds a step."""
    steps = len(Batches(lambda *part: part))
    runs = candidates()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                times = run(epochs, folder)
            durations = [end - start for start, end in itertools.pairwise(times)]
            seconds[name] += durations[1:]
    return {name: statistics.median(values) / steps * 1e3 for name, values in seconds.items()}


def import_milliseconds(repeats: int = 5) -> tuple[float, float]:
    """How long pytorch_lightning takes to import, and what fuse_lightning adds to it."""
    code = (
        "import time; a = time.perf_counter(); import pytorch_lightning; b = time.perf_counter(); "
        "import fuse_lightning; print(b - a, time.perf_counter() - b)"
    )
    runs = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append([float(text) * 1e3 for text in done.stdout.split()[-2:]])
    lightning, ours = zip(*runs, strict=True)
    return statistics.median(lightning), statistics.median(ours)


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pytorch-lightning", "torchmetrics")]
    print(f"{', '.join(versions)}; Python {platform.python_version()}; {arguments.threads} threads\n")

    results = measure(arguments.rounds, arguments.epochs)
    ours = results["fuse_lightning LightningModuleDefault"]
    loop = results["bare loop"]
    print("| training | ms a step | over the bare loop | ours / this |\n|---|---|---|---|")
    for name, milliseconds in results.items():
        print(f"| {name} | {milliseconds:.2f} | {milliseconds - loop:.2f} | {ours / milliseconds:.2f} |")

    lightning, added = import_milliseconds()
    print("\n| import | ms |\n|---|---|")
    print(f"| pytorch_lightning | {lightning:.0f} |")
    print(f"| fuse_lightning, after it | {added:.0f} |")


if __name__ == "__main__":
    main()
