"""Validation and test: the losses and metrics of each loader over an epoch."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fuse_core import NDict, number_of_samples

from .loaders.components_by_loader import LoaderComponents, in_order, loader_names, of_loader
from .loaders.distributed_padding import samples_without_padding
from .losses.epoch_losses import EpochLosses
from .step_functions import reset_metrics, step_losses, step_metrics


class LoaderEvaluation:
    """The losses and metrics of one loader over an epoch, without the samples that a distributed sampler repeats.

    Logged names start with `log_prefix`: the mode; with several loaders also the loader's name.
    """

    def __init__(self, log_prefix: str, losses: nn.ModuleDict, metrics: nn.ModuleDict, loader: Any) -> None:
        self.log_prefix = log_prefix
        self.losses = losses
        self.metrics = metrics
        self.epoch_losses = EpochLosses()
        reset_metrics(metrics)  # an interrupted epoch leaves values behind
        self._own_samples = samples_without_padding(loader)
        self._seen = 0

    def step(self, pl_module: nn.Module, batch_dict: NDict) -> None:
        """Pass one batch through the module, the losses and the metrics."""
        batch_dict, samples = self._without_padding(batch_dict)
        result: NDict = pl_module(batch_dict)
        if self.losses:
            step_losses(self.losses, result)
        self.epoch_losses.update(result, samples)
        if samples != 0:
            step_metrics(self.metrics, result)

    def _without_padding(self, batch_dict: NDict) -> tuple[NDict, int | None]:
        """The batch without the samples that a distributed sampler repeats, and the number of those that are left.

        Returns:
            The number is None if no sample was left out. If all samples are repetitions, it is 0 and the batch is
            unchanged: distributed models need a forward on every process.
        """
        samples = number_of_samples(batch_dict)
        if self._own_samples is None or samples is None:
            return batch_dict, None
        own = max(0, min(samples, self._own_samples - self._seen))
        self._seen += samples
        if own in (0, samples):
            return batch_dict, (0 if own == 0 else None)
        try:
            return batch_dict.indices(slice(own)), own
        except ValueError as error:
            warnings.warn(f"Samples that the distributed sampler repeats are counted twice: {error}", stacklevel=2)
            return batch_dict, None


class Evaluation:
    """A `LoaderEvaluation` for each loader of one mode, by the loader's position.

    If metrics were given for every loader, the first loader uses them and each other loader uses copies.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._loaders: list[LoaderEvaluation] = []
        self._copies: dict[int, nn.ModuleDict] = {}

    def __getitem__(self, loader_idx: int) -> LoaderEvaluation:
        return self._loaders[loader_idx]

    def __iter__(self) -> Iterator[LoaderEvaluation]:
        return iter(self._loaders)

    def start(self, loaders: Any, losses: nn.ModuleDict, metrics: nn.ModuleDict, device: torch.device) -> None:
        """Begin an epoch with the Trainer's loader, or a sequence or mapping of loaders."""
        names = loader_names(self.mode, {"losses": losses, "metrics": metrics}, loaders)
        self._loaders = [
            LoaderEvaluation(
                self.mode if name is None else f"{self.mode}.{name}",
                of_loader(losses, name),
                self._metrics(metrics, name, position).to(device),
                loader,
            )
            for position, (name, loader) in enumerate(zip(names, in_order(loaders), strict=True))
        ]

    def _metrics(self, metrics: nn.ModuleDict, name: str | None, position: int) -> nn.ModuleDict:
        if isinstance(metrics, LoaderComponents) or position == 0:
            return of_loader(metrics, name)
        if position not in self._copies:
            self._copies[position] = copy.deepcopy(metrics)  # not registered: checkpoints hold the first loader's
        return self._copies[position]
