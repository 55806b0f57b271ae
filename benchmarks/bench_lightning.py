# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-lightning", "fuse-losses", "fuse-models", "pandas", "scikit-learn"]
#
# [tool.bench]
# # Its LightningModule alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Training time of LightningModuleDefault beside a bare loop, a hand-written module and fuse-med-ml's, and import time.

    nox -s "bench(lightning)" -- [--rounds 5] [--epochs 5] [--threads 2] [--quick]

A small convolutional network learns scikit-learn's digits in batches of 32, which are in memory already: the loop is
measured, not the loading. Candidates take turns, a whole `fit` each, so that a busy machine slows all of them; the
figure is the median over all epochs but the first of each fit, from the start of one epoch to the start of the next.
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
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

sys.path.insert(0, str(Path(__file__).parent))
import measure
from measure import print_header, print_row

BATCH_SIZE = 32
IMAGE, LABEL, SAMPLE_ID, LOGITS = "data.image", "data.label", "data.sample_id", "model.logits.digit"
Candidate = Callable[[int, str], list[float]]  # (epochs, folder) → the time at each epoch's start, and at the end


def import_fuse_med_ml() -> tuple[type, type, type]:
    """Its module, model wrapper and NDict; what it imports and does not need here is replaced by nothing."""
    while True:
        try:
            from fuse.dl.lightning.pl_module import LightningModuleDefault as Module
            from fuse.dl.models.model_wrapper import ModelWrapSeqToDict as Wrapper
            from fuse.utils import NDict as PeerNDict
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "fuse":
                raise
            sys.modules[error.name] = MagicMock()
            for name in [name for name in sys.modules if name.partition(".")[0] == "fuse"]:
                del sys.modules[name]
        else:
            return Module, Wrapper, PeerNDict


def network() -> nn.Sequential:
    """The same network for all."""
    torch.manual_seed(0)
    convolutions: list[nn.Module] = []
    for channels_in, channels_out in ((1, 32), (32, 64)):
        convolutions += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]
    classifier = [nn.Linear(64 * 16, 120), nn.ReLU(), nn.Linear(120, 10)]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), *classifier)


class Batches:
    """A loader of batches that are in memory; `make` gets image, label and sample ids."""

    def __init__(self, make: Callable[[Tensor, Tensor, list[int]], Any]) -> None:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        parts = torch.arange(len(labels)).split(BATCH_SIZE)
        self.parts = [(images[part], labels[part], part.tolist()) for part in parts]
        self.make = make

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return (self.make(*part) for part in self.parts)


def as_tuple(image: Tensor, label: Tensor, _: list[int]) -> tuple[Tensor, Tensor]:
    """A batch of PyTorch's."""
    return image, label


def as_dictionary(kind: type, image: Tensor, label: Tensor, ids: list[int]) -> Any:
    """A batch_dict."""
    return kind({IMAGE: image, LABEL: label, SAMPLE_ID: ids})


def adam(module: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer for all."""
    return torch.optim.Adam(module.parameters(), lr=1e-3)


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
        return adam(self)


class PeerAccuracy(MulticlassAccuracy):
    """The same accuracy with fuse-med-ml's interface."""

    def collect(self, batch: Any) -> None:
        """Take in one batch."""
        self.update(batch[LOGITS].detach(), batch[LABEL])

    def eval(self, results: Any = None) -> float:
        """The accuracy."""
        return self.compute().item()


class EpochTimes(pl.Callback):
    """When each epoch starts, and when the last one ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    on_train_end = on_train_epoch_start


def bare_loop(epochs: int, _: str) -> list[float]:
    """Nothing but PyTorch."""
    model = network()
    optimizer = adam(model)
    loader = Batches(as_tuple)
    times = [time.perf_counter()]
    for _epoch in range(epochs):
        for image, label in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(image), label).backward()
            optimizer.step()
        times.append(time.perf_counter())
    return times


def fit(
    make_module: Callable[[str], pl.LightningModule], make_batch: Callable[..., Any], epochs: int, folder: str
) -> list[float]:
    """Train with a Trainer."""
    clock = EpochTimes()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    logger = CSVLogger(folder)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=logger, callbacks=[clock], **quiet)
    trainer.fit(make_module(folder), Batches(make_batch))
    return clock.times


def default_module(module: type, wrapper: type, metric: Callable[[], Any], folder: str) -> pl.LightningModule:
    """Our LightningModuleDefault or fuse-med-ml's, which have these arguments in common."""
    return module(
        model_dir=folder,
        model=wrapper(model=network(), model_inputs=[IMAGE], model_outputs=[LOGITS]),
        losses={"cross_entropy": LossDefault(pred=LOGITS, target=LABEL, callable=F.cross_entropy)},
        train_metrics={"accuracy": metric()},
        optimizers_and_lr_schs=adam,
    )


def our_accuracy() -> MetricDefault:
    """The same accuracy in our metric."""
    return MetricDefault(pred=LOGITS, target=LABEL, metric=MulticlassAccuracy(10, average="micro"))


def candidates() -> dict[str, Candidate]:
    """All by name."""
    peer_module, peer_wrapper, peer_ndict = import_fuse_med_ml()
    ours = partial(default_module, LightningModuleDefault, ModelWrapSeqToDict, our_accuracy)
    peer = partial(default_module, peer_module, peer_wrapper, partial(PeerAccuracy, 10, average="micro"))
    return {
        "bare loop": bare_loop,
        "hand-written, nothing logged": partial(fit, lambda _: HandWritten(), as_tuple),
        "hand-written, one `self.log`": partial(fit, lambda _: HandWritten(loss=True), as_tuple),
        "hand-written, loss and accuracy logged": partial(fit, lambda _: HandWritten(True, True), as_tuple),
        "fuse-med-ml 0.4.1 `LightningModuleDefault`": partial(fit, peer, partial(as_dictionary, peer_ndict)),
        "fuse_lightning `LightningModuleDefault`": partial(fit, ours, partial(as_dictionary, NDict)),
    }


def milliseconds_a_step(rounds: int, epochs: int) -> dict[str, float]:
    """The median over the epochs of all fits."""
    steps = len(Batches(as_tuple))
    runs = candidates()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                durations = [end - start for start, end in itertools.pairwise(run(epochs, folder))]
            seconds[name] += durations[1:]
    return {name: statistics.median(values) / steps * 1e3 for name, values in seconds.items()}


def main(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    measure.print_versions("pytorch-lightning", "torchmetrics")
    results = milliseconds_a_step(arguments.rounds, 2 if arguments.quick else arguments.epochs)
    loop, ours = results["bare loop"], results["fuse_lightning `LightningModuleDefault`"]
    print_header("training", "ms a step", "over the bare loop", "ours / this")
    for name, one in results.items():
        print_row(name, f"{one:.2f}", f"{one - loop:.2f}", f"{ours / one:.2f}")
    lightning, added = measure.import_milliseconds("fuse_lightning", after="pytorch_lightning")
    print(f"\n`import fuse_lightning` adds {added:.0f} ms to `import pytorch_lightning`, {lightning:.0f} ms.")


if __name__ == "__main__":
    parser = measure.options_of(__doc__, rounds=5, threads=2)
    parser.add_argument("--epochs", type=int, default=5)
    main(measure.parse(parser))
