"""What the batches of one loader add up to in an epoch."""

import warnings
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from fuse_core import NDict, number_of_samples

from ..losses.batch_losses import BatchLosses
from ..losses.epoch_losses import EpochLosses
from ..step_functions import (
    epoch_end_compute_and_log_losses,
    epoch_end_compute_and_log_metrics,
    reset_metrics,
    step_losses,
    step_metrics,
)
from .distributed_padding import samples_without_padding


class LoaderRecord:
    """The losses and metrics of one loader, and their values over an epoch.

    Args:
        log_prefix: what logged names begin with: the mode, and with several loaders the loader's name.
        losses: losses by name.
        metrics: metrics by name.
    """

    def __init__(self, log_prefix: str, losses: nn.ModuleDict, metrics: nn.ModuleDict) -> None:
        self.log_prefix = log_prefix
        self.losses = losses
        self.metrics = metrics
        self.epoch_losses = EpochLosses()
        self._seen = 0
        self._counted: int | None = None

    def start(self, loader: Any = None) -> None:
        """Begin an epoch from nothing: one that was interrupted leaves its sums behind.

        Args:
            loader: the loader, to leave out what its sampler repeats; None counts everything.
        """
        self.epoch_losses.reset()
        reset_metrics(self.metrics)
        self._seen = 0
        self._counted = samples_without_padding(loader)

    def without_padding(self, batch_dict: NDict) -> tuple[NDict, int | None]:
        """The batch without samples that a distributed sampler repeats, and how many it then holds.

        Returns:
            The number is None where nothing was left out. It is 0, with the batch as it is, where all are repetitions:
            distributed models need a forward on every process.
        """
        samples = number_of_samples(batch_dict)
        if self._counted is None or samples is None:
            return batch_dict, None
        counted = max(0, min(samples, self._counted - self._seen))
        self._seen += samples
        if counted in (0, samples):
            return batch_dict, (0 if counted == 0 else None)
        try:
            return batch_dict.indices(slice(counted)), counted
        except ValueError as error:
            warnings.warn(f"Samples that the distributed sampler repeats are counted twice: {error}", stacklevel=2)
            return batch_dict, None

    def update(
        self,
        batch_dict: NDict,
        samples: int | None = None,
        counts: Tensor | None = None,
        losses: BatchLosses | None = None,
    ) -> None:
        """Take in one batch; see `EpochLosses.update`."""
        self.epoch_losses.update(batch_dict, samples, counts, losses)
        if samples != 0:
            step_metrics(self.metrics, batch_dict)

    def evaluate(self, pl_module: nn.Module, batch_dict: NDict) -> None:
        """Pass one batch through the module, the losses and the metrics."""
        batch_dict, samples = self.without_padding(batch_dict)
        result: NDict = pl_module(batch_dict)
        step_losses(self.losses, result)
        self.update(result, samples)

    def log(self, pl_module: pl.LightningModule, sep: str) -> None:
        """Log the epoch's losses and metrics."""
        epoch_end_compute_and_log_losses(pl_module, self.log_prefix, self.epoch_losses, sep=sep)
        epoch_end_compute_and_log_metrics(pl_module, self.log_prefix, self.metrics, sep=sep)
