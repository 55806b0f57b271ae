"""`fuse-lightning wiring`: which component reads and writes which keys."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import Namespace

from fuse_core import GLOBAL_STEP, NDict, Wiring, check_wiring

from .errors import RunError
from .run_cli import RunCLI


@dataclass(frozen=True)
class Predictions:
    """What is kept of a batch, as a component that reads it."""

    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()


class WiringCLI(RunCLI):
    """Takes the first training batch and follows its keys through the components, instead of training.

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

    def instantiate_trainer(self, **arguments: Any) -> pl.Trainer:
        """A trainer that does nothing, on any machine."""
        logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
        return pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)

    def fit(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None, **_: Any) -> None:
        """Print the table and the drawing, and write them."""
        wiring = module_wiring(model, first_batch(model if datamodule is None else datamodule))
        print(f"{wiring}\n\n{wiring.to_mermaid()}")  # noqa: T201
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            text = f"# Wiring\n\n```\n{wiring}\n```\n\n```mermaid\n{wiring.to_mermaid()}\n```\n"
            self.output.write_text(text, encoding="utf-8")


def first_batch(data: Any) -> Mapping[str, Any]:
    """The first batch of the first training loader.

    Args:
        data: what has the loaders, a LightningDataModule or LightningModule.

    Raises:
        RunError: the loader has no batch.
    """
    data.prepare_data()
    if isinstance(data, pl.LightningDataModule):
        data.setup("fit")
    loader = data.train_dataloader()
    while isinstance(loader, list | tuple | dict):  # several loaders: they give batches of the same keys
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader))
    for batch in loader:
        return NDict(batch)
    raise RunError(
        f"the training loader of {type(data).__name__} has no batch: is the dataset empty, or drop_last set?"
    )


def module_wiring(module: pl.LightningModule, batch: Mapping[str, Any]) -> Wiring:
    """The wiring of a module's model, losses, metrics and predictions, all on one batch.

    Raises:
        RunError: the module has no attribute `model`.
        WiringError: a key is read that nothing provides.
    """
    if not hasattr(module, "model"):
        raise RunError(
            f"{type(module).__name__} has no attribute 'model' to follow the keys through. Name the module's parts as "
            f"LightningModuleDefault does: model, losses, train_metrics, validation_metrics, test_metrics."
        )
    components: dict[str, Any] = {"model": module.model}
    for group in ("losses", "validation_losses", "train_metrics", "validation_metrics", "test_metrics"):
        parts = getattr(module, group, None)
        components |= {f"{group}.{name}": part for name, part in (parts.items() if parts else ())}
    if getattr(module, "prediction_keys", None):
        components["prediction_keys"] = Predictions(reads=tuple(module.prediction_keys))
    return check_wiring(components, [*batch, GLOBAL_STEP])
