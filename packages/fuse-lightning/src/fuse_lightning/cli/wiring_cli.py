"""`fuse-lightning wiring`: which component reads and writes which keys."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.utilities.model_helpers import is_overridden

from fuse_core import NDict, Wiring
from fuse_lightning.data_module_default import DataModuleDefault
from fuse_lightning.loader_components import LoaderComponents
from fuse_lightning.step_wiring import check_step_wiring

from .errors import RunError
from .run_cli import RunCLI

LOADERS = {
    "train": ("fit", "train_dataloader"),
    "validation": ("validate", "val_dataloader"),
    "test": ("test", "test_dataloader"),
}


class WiringCLI(RunCLI):
    """Takes a batch and follows its keys through the components, instead of training.

    Args:
        arguments: the options of `fit`, and `--output`, the Markdown file to write.

    Raises:
        WiringError: a key is read that nothing provides.
        RunError: there is no batch, or the module has no model to follow.
    """

    def __init__(self, arguments: list[str]) -> None:
        parser = argparse.ArgumentParser(prog="fuse-lightning wiring", add_help=False, allow_abbrev=False)
        parser.add_argument("--output", type=Path)
        options, others = parser.parse_known_args(arguments)
        self.output: Path | None = options.output
        super().__init__(["fit", *others])

    def prepare_run(self, config: Namespace) -> None:
        """Nothing: there is no run."""

    def before_fit(self) -> None:
        """Nothing: there is no run."""

    def instantiate_trainer(self, **arguments: Any) -> pl.Trainer:
        """A trainer that does nothing, on any machine."""
        logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
        return pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)

    def fit(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None, **_: Any) -> None:
        """Print tables and drawing, and write them."""
        wirings = module_wirings(model, model if datamodule is None else datamodule)
        modes: dict[str, list[str]] = {}  # those whose tables are the same, together
        for mode, wiring in wirings.items():
            modes.setdefault(str(wiring), []).append(mode)
        drawing = wirings["train"].to_mermaid()
        print("\n\n".join([*(f"{', '.join(names)}\n\n{table}" for table, names in modes.items()), drawing]))  # noqa: T201
        if self.output is not None:
            tables = [f"## {', '.join(names)}\n\n```\n{table}\n```" for table, names in modes.items()]
            text = "\n\n".join(["# Wiring", *tables, f"## drawing of train\n\n```mermaid\n{drawing}\n```"])
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(f"{text}\n", encoding="utf-8")


def module_wirings(module: pl.LightningModule, data: Any) -> dict[str, Wiring]:
    """The wiring of a training step, of a step with each validation and test loader there is, and of a prediction.

    Args:
        module: has a `model`, and may have `losses`, `train_metrics`, `validation_metrics` and `test_metrics`, as
            LightningModuleDefault does.
        data: what has the loaders, a LightningDataModule or a LightningModule.

    Raises:
        RunError: no training batch, or the module has no `model`.
        WiringError: a key is read that nothing provides.
    """
    if not hasattr(module, "model"):
        raise RunError(
            f"{type(module).__name__} has no attribute 'model' to follow the keys through. Name the module's parts as "
            f"LightningModuleDefault does: model, losses, train_metrics, validation_metrics, test_metrics."
        )
    wirings, batch = {}, None
    model: Any = module.model
    for mode in LOADERS:
        groups = _losses(module, mode), getattr(module, f"{mode}_metrics", None)
        for position, (name, loader) in enumerate(_loaders(data, mode)):
            batch = _first_batch(loader, mode)
            label = mode if name is None else f"{mode}.{name}"
            losses, metrics = (_of_loader(group, name, position) for group in groups)
            wirings[label] = check_step_wiring(batch, model, losses, metrics)
    keys = getattr(module, "prediction_keys", None)
    if keys and batch is not None:
        wirings["predict"] = check_step_wiring(batch, model, prediction_keys=keys)
    return wirings


def _loaders(data: Any, mode: str) -> list[tuple[Any, Any]]:
    """The mode's loaders with their names, or positions where there are several without; None for a single one."""
    stage, method = LOADERS[mode]
    if not is_overridden(method, data) or (isinstance(data, DataModuleDefault) and getattr(data, mode) is None):
        return []
    if isinstance(data, pl.LightningDataModule):
        data.prepare_data()
        data.setup(stage)
    loaders = getattr(data, method)()
    if isinstance(loaders, dict):
        return list(loaders.items())
    listed = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
    return list(enumerate(listed)) if len(listed) > 1 else [(None, loader) for loader in listed]


def _first_batch(loader: Any, mode: str) -> Mapping[str, Any]:
    for batch in loader:
        return NDict(batch)
    raise RunError(f"the {mode} loader has no batch: is its dataset empty, or shorter than a batch with drop_last?")


def _losses(module: pl.LightningModule, mode: str) -> Any:
    own = {"validation": ["validation_losses"], "test": ["test_losses", "validation_losses"]}.get(mode, [])
    groups = [getattr(module, name, None) for name in (*own, "losses")]
    return next((losses for losses in groups if losses is not None), None)


def _of_loader(group: Any, name: Any, position: int) -> Any:
    """The losses or metrics of one loader, where they tell loaders apart."""
    if not isinstance(group, LoaderComponents):
        return group
    return group[name if name in group else list(group)[position]]
