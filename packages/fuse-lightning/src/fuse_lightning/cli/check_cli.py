"""`fuse-lightning check`: do keys, shapes, dtypes and gradients of a configuration fit together?"""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from fuse_core import ContractError, NDict, TensorSpec, WiringError
from fuse_lightning.checks.module_contract import check_module_contract
from fuse_lightning.checks.module_wiring import mode_components, mode_losses
from fuse_lightning.checks.monitors import check_monitors, names_to_log
from fuse_lightning.data_module_default import DataModuleDefault
from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.loaders.components_by_loader import LoaderComponents, in_order, loader_names
from fuse_lightning.loaders.resumable_loader import ResumableLoader, SeededCollate, SeededDataset

from .errors import RunError, UsageError
from .run_cli import LOADERS, RunCLI

COMMANDS = {"train": "fit", "validation": "validate", "test": "test"}


class CheckCLI(RunCLI):
    """Checks the contract of a training step, of a step for each validation and test loader, and of a prediction.

    The batches are those of `batch_spec` in the configuration, or else made of one sample of each dataset.

    Args:
        arguments: the options of `fit`, and `--output`, the Markdown file to write.

    Raises:
        ContractError: parts do not fit together. The message lists all problems.
        UsageError: `batch_spec` is wrong.
        RunError: a loader has no batch, or the module has no model to run.
    """

    def __init__(self, arguments: list[str]) -> None:
        parser = argparse.ArgumentParser(prog="fuse-lightning check", add_help=False, allow_abbrev=False)
        parser.add_argument("--output", type=Path, default=Path("contract.md"))
        options, others = parser.parse_known_args(arguments)
        self.output: Path = options.output
        self.batch_spec: NDict | None = None
        super().__init__(["fit", *others])

    def before_instantiate_classes(self) -> None:
        """There is no run: of the trainer's arguments, none is made or used. With `batch_spec`, data is not used."""
        config = self.config[self.command]
        unused = {"callbacks": None, "logger": False, "plugins": None, "profiler": None, "strategy": "auto"}
        for name, value in unused.items():
            config.trainer[name] = value
        if config.batch_spec is not None:
            self.batch_spec = batch_spec_of(config.batch_spec)
            config.pop("data")

    def after_instantiate_classes(self) -> None:
        """Check that there are batches."""
        if self.batch_spec is None:
            super().after_instantiate_classes()

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
        """Print tables, and write them with drawings to the output file."""
        if not hasattr(model, "model"):
            raise RunError(
                f"{type(model).__name__} has no attribute 'model' to run. Name the module's parts as "
                f"LightningModuleDefault does: model, losses, train_metrics, validation_metrics, test_metrics."
            )
        titles: dict[str, list[str]] = {}  # modes with equal tables share one
        drawings: dict[str, str] = {}
        problems: dict[str, None] = {}
        logged: list[str] = []  # by a training
        for mode, loader, batch in self._batches(model, model if datamodule is None else datamodule):
            title = mode if loader is None else f"{mode}.{loader}"
            if mode in ("train", "validation") and isinstance(model, LightningModuleDefault):
                losses, metrics = mode_components(model, mode, loader)
                logged += names_to_log(model.model, title, losses, metrics, model._sep)
            try:
                contract = check_module_contract(model, batch, mode, loader)
            except WiringError as error:
                problems |= dict.fromkeys(error.problems)
                continue
            table = str(contract)
            titles.setdefault(table, []).append(title)
            drawings[table] = contract.to_mermaid()
        if any(name.startswith("train") for name in logged):
            problems |= dict.fromkeys(self._unknown_monitors(model, logged))
        sections = [(", ".join(names), table) for table, names in titles.items()]
        print("\n\n".join(part for section in sections for part in section))  # noqa: T201
        blocks = [f"## {title}\n\n```\n{table}\n```\n\n```mermaid\n{drawings[table]}\n```" for title, table in sections]
        blocks += ["## Problems", "\n".join(f"- {problem}" for problem in problems)] if problems else []
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text("\n\n".join(["# Contract", *blocks]) + "\n", encoding="utf-8")
        if problems:
            raise ContractError(problems)

    def _unknown_monitors(self, module: Any, logged: list[str]) -> Iterator[str]:
        """The first monitor of the module's own callbacks that its training would not log."""
        module.trainer = self.trainer
        module.trainer.callbacks.extend(module.configure_callbacks())
        try:
            check_monitors(module, LightningModuleDefault, logged, module._sep)
        except ValueError as error:
            yield str(error)

    def _batches(self, module: pl.LightningModule, data: Any) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
        """Modes and loaders, with a batch or a spec of each."""
        batch: Mapping[str, Any] | None = self.batch_spec
        for mode in COMMANDS:
            groups = {"losses": mode_losses(module, mode), "metrics": getattr(module, f"{mode}_metrics", None)}
            if self.batch_spec is not None:
                named = [list(group) for group in groups.values() if isinstance(group, LoaderComponents)]
                yield from ((mode, name, self.batch_spec) for name in (named[0] if named else [None]))
                continue
            loaders = _loaders(data, mode)
            names = [] if loaders is None else loader_names(mode, groups, loaders)
            for name, loader in zip(names, in_order(loaders) if names else [], strict=True):
                batch = _batch_of_one_sample(loader, mode)
                yield mode, name, batch
        if batch is not None and getattr(module, "prediction_keys", None):
            yield "predict", None, batch


def batch_spec_of(entries: Mapping[str, Any]) -> NDict:
    """The specs of tensors in a configuration: for each key `[null, 1, 28, 28]`, or a mapping of shape and dtype.

    Raises:
        UsageError: lists the keys with a wrong shape or dtype.

    Example:
        >>> batch_spec_of({"data.label": {"shape": [None], "dtype": "int64"}})
        NDict({'data.label': TensorSpec(shape=(None,), dtype=torch.int64, device='cpu')})
    """
    specs, problems = NDict(), []
    for key, entry in entries.items():
        entry = entry if isinstance(entry, Mapping) else {"shape": entry}
        shape: Any = entry.get("shape")
        dtype = getattr(torch, str(entry.get("dtype", "float32")), None)
        is_shape = isinstance(shape, list | tuple) and all(axis is None or type(axis) is int for axis in shape)
        if not is_shape or not isinstance(dtype, torch.dtype) or not entry.keys() <= {"shape", "dtype"}:
            usual = "{shape: [null, 1, 28, 28], dtype: float32}, with null for the batch axis"
            problems.append(f"batch_spec.{key}: it takes {usual}; got {dict(entry)}.")
        else:
            specs[key] = TensorSpec(tuple(shape), dtype)
    if problems:
        raise UsageError(*problems)
    return specs


def _loaders(data: Any, mode: str) -> Any:
    """The mode's loader, or several in a sequence or mapping; None if there is none."""
    stage = COMMANDS[mode]
    method = LOADERS[stage]
    if not is_overridden(method, data) or (isinstance(data, DataModuleDefault) and getattr(data, mode) is None):
        return None
    if isinstance(data, pl.LightningDataModule):
        data.prepare_data()
        data.setup(stage)
    return getattr(data, method)()


def _batch_of_one_sample(loader: Any, mode: str) -> Mapping[str, Any]:
    """A batch of two times the dataset's first sample, which is loaded once; the first batch of other loaders."""
    loader = loader._loader if isinstance(loader, ResumableLoader) else loader
    size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if size and isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        dataset, collate_fn = loader.dataset, loader.collate_fn
        if isinstance(dataset, SeededDataset) and isinstance(collate_fn, SeededCollate):
            dataset, collate_fn = dataset.dataset, collate_fn.collate_fn
        if len(dataset):  # type: ignore[arg-type]
            return NDict(collate_fn([dataset[0]] * min(2, size)))
    else:
        for batch in loader:
            return NDict(batch)
    raise RunError(f"the {mode} loader has no batch: is its dataset empty, or shorter than a batch with drop_last?")
