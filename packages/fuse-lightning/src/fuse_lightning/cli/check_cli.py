"""`fuse-lightning wiring`: which component reads and writes which keys."""

import argparse
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.utilities.model_helpers import is_overridden

from fuse_core import NDict, Wiring
from fuse_lightning.checks.module_wiring import mode_losses, module_wiring
from fuse_lightning.data_module_default import DataModuleDefault
from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.loaders.components import in_order, loader_names

from .errors import RunError
from .run_cli import RunCLI

LOADERS = {
    "train": ("fit", "train_dataloader"),
    "validation": ("validate", "val_dataloader"),
    "test": ("test", "test_dataloader"),
}


class WiringCLI(RunCLI):
    """Takes one batch of each loader and follows its keys through the components, instead of training.

    Args:
        arguments: the options of `fit`, and `--output`, the Markdown file to write.

    Raises:
        WiringError: a key is read that nothing provides.
        RunError: a loader has no batch, or the module has no model to follow.
    """

    def __init__(self, arguments: list[str]) -> None:
        parser = argparse.ArgumentParser(prog="fuse-lightning wiring", add_help=False, allow_abbrev=False)
        parser.add_argument("--output", type=Path)
        options, others = parser.parse_known_args(arguments)
        self.output: Path | None = options.output
        super().__init__(["fit", *others])

    def prepare_run(self, config: Namespace) -> None:
        """There is no run: of the trainer's arguments, none is made or used."""
        unused = {"callbacks": None, "logger": False, "plugins": None, "profiler": None, "strategy": "auto"}
        for name, value in unused.items():
            config.trainer[name] = value

    def instantiate_trainer(self, **arguments: Any) -> pl.Trainer:
        """Make a trainer that works on any machine and is not used."""
        logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
        level = logger.level
        logger.setLevel(logging.WARNING)  # nothing about devices that are not used
        try:
            return pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        finally:
            logger.setLevel(level)

    def fit(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None, **_: Any) -> None:
        """Print tables and drawings, and write them to the output file."""
        modes: dict[str, list[str]] = {}  # modes with equal tables share one
        drawings: dict[str, str] = {}
        for mode, wiring in module_wirings(model, model if datamodule is None else datamodule).items():
            table = str(wiring)
            modes.setdefault(table, []).append(mode)
            drawings[table] = wiring.to_mermaid()
        sections = [(", ".join(names), table, drawings[table]) for table, names in modes.items()]
        print("\n\n".join(part for section in sections for part in section))  # noqa: T201
        if self.output is not None:
            blocks = [
                f"## {title}\n\n```\n{table}\n```\n\n```mermaid\n{drawing}\n```" for title, table, drawing in sections
            ]
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text("\n\n".join(["# Wiring", *blocks]) + "\n", encoding="utf-8")


def module_wirings(module: pl.LightningModule, data: Any) -> dict[str, Wiring]:
    """The wiring of a training step, of a step for each validation and test loader, and of a prediction.

    Args:
        module: a LightningModuleDefault, or a module whose parts have the same names; see `module_wiring`.
        data: the LightningDataModule or LightningModule that has the loaders.

    Raises:
        RunError: a loader has no batch, or the module has no `model`.
        ValueError: losses, metrics and data name different loaders.
        WiringError: a key is read that nothing provides.
    """
    if not hasattr(module, "model"):
        raise RunError(
            f"{type(module).__name__} has no attribute 'model' to follow the keys through. Name the module's parts as "
            f"LightningModuleDefault does: model, losses, train_metrics, validation_metrics, test_metrics."
        )
    wiring = module.wiring if isinstance(module, LightningModuleDefault) else partial(module_wiring, module)
    wirings, batch = {}, None
    for mode in LOADERS:
        loaders = _loaders(data, mode)
        if loaders is None:
            continue
        groups = {"losses": mode_losses(module, mode), "metrics": getattr(module, f"{mode}_metrics", None)}
        for name, loader in zip(loader_names(mode, groups, loaders), in_order(loaders), strict=True):
            batch = _first_batch(loader, mode)
            wirings[mode if name is None else f"{mode}.{name}"] = wiring(batch, mode, name)
    if batch is not None and getattr(module, "prediction_keys", None):
        wirings["predict"] = wiring(batch, "predict")
    return wirings


def _loaders(data: Any, mode: str) -> Any:
    """The mode's loader, or several in a sequence or mapping; None if there is none."""
    stage, method = LOADERS[mode]
    if not is_overridden(method, data) or (isinstance(data, DataModuleDefault) and getattr(data, mode) is None):
        return None
    if isinstance(data, pl.LightningDataModule):
        data.prepare_data()
        data.setup(stage)
    return getattr(data, method)()


def _first_batch(loader: Any, mode: str) -> Mapping[str, Any]:
    for batch in loader:
        return NDict(batch)
    raise RunError(f"the {mode} loader has no batch: is its dataset empty, or shorter than a batch with drop_last?")
