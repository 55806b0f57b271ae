"""The records of the loaders of one mode."""

import copy
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from .components import LoaderComponents, loader_names, of_loader
from .record import LoaderRecord


class LoaderRecords:
    """A `LoaderRecord` for each loader of one mode, by the loader's position.

    Metrics that were given for every loader have values of their own for each: the second loader and those after it
    use copies.

    Args:
        mode: `"validation"` or `"test"`.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._records: list[LoaderRecord] = []
        self._copies: dict[int, nn.ModuleDict] = {}

    def __getitem__(self, loader_idx: int) -> LoaderRecord:
        return self._records[loader_idx]

    def __iter__(self) -> Any:
        return iter(self._records)

    def start(self, loaders: Any, losses: nn.ModuleDict, metrics: nn.ModuleDict, device: torch.device) -> None:
        """Begin an epoch from nothing.

        Args:
            loaders: what the Trainer was given: a loader, or several in a sequence or a mapping.
            losses: losses by name, or a `LoaderComponents`.
            metrics: as `losses`.
            device: where the metrics are.
        """
        names = loader_names(self.mode, {"losses": losses, "metrics": metrics}, loaders)
        self._records = [
            LoaderRecord(
                self.mode if name is None else f"{self.mode}.{name}",
                of_loader(losses, name),
                self._metrics(metrics, name, position).to(device),
            )
            for position, name in enumerate(names)
        ]
        for record, loader in zip(self._records, in_order(loaders), strict=True):
            record.start(loader)

    def log(self, pl_module: pl.LightningModule, sep: str) -> None:
        """Log the epoch's losses and metrics of every loader."""
        for record in self._records:
            record.log(pl_module, sep)

    def _metrics(self, metrics: nn.ModuleDict, name: str | None, position: int) -> nn.ModuleDict:
        if isinstance(metrics, LoaderComponents) or position == 0:
            return of_loader(metrics, name)
        if position not in self._copies:
            # Not registered: what is learned or saved in them is in the first loader's.
            self._copies[position] = copy.deepcopy(metrics)
        return self._copies[position]


def in_order(loaders: Any) -> list[Any]:
    """The loaders of what a Trainer was given: a loader, a sequence of them, or a mapping."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
