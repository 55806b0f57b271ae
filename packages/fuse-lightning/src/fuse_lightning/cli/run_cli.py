"""LightningCLI with a run folder, checkpoints found by name, and messages that name the mistake."""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.model_helpers import is_overridden

from fuse_lightning.lightning_module_default import LightningModuleDefault
from fuse_lightning.predictions.predictions_to_file import PredictionsToFile
from fuse_lightning.report.run_page import DATA_FILE
from fuse_lightning.report.run_report import RunReport
from fuse_lightning.run_folder import LAST_CHECKPOINT, PREDICTIONS_FILE

from .checkpoint_by_name import UNTRAINED, checkpoints_in, find_checkpoint
from .configuration.configuration_problems import configuration_problems
from .earlier_run import check_run_folder, replace_earlier_run
from .errors import BuildError, RunError, UsageError
from .file_names import LOGS, RESULT_FILE
from .interruption import Interruption, is_requeued
from .result import write_result
from .save_run_config import SaveRunConfig

LOADERS = {
    "fit": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


class RunCLI(LightningCLI):
    """Reads the arguments, makes the objects that they describe, and runs the command.

    Args:
        arguments: the command and its options.

    Raises:
        UsageError: the configuration is wrong; lists all mistakes with their places.
        BuildError: a class refused its arguments.
        RunError: the run folder holds another run, or a checkpoint does not exist.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.command, *self.options = arguments
        self.command_parser: LightningArgumentParser
        self.ckpt_path: Any = None
        super().__init__(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            parser_kwargs={"exit_on_error": False, self.command: {"exit_on_error": False}},
            auto_configure_optimizers=False,  # the module has its own, from optimizers_and_lr_schs
            load_from_checkpoint_support=False,  # the configuration alone describes the module
            args=arguments,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command alone. The parsers of the other three take a sixth of the time until a command runs."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, and link to it."""
        self.command_parser = parser
        parser.add_argument("--run_dir", type=str, default="runs/default", help="The folder for all files of the run.")
        parser.add_argument("--overwrite", action="store_true", help="Replace the files of an earlier run.")
        parser.add_argument("--report", action="store_true", help="Write a page of results, index.html.")
        parser.add_argument("--batch_spec", type=dict[str, Any] | None, help="Shapes and dtypes, for check.")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "model.init_args.model_dir")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and find all mistakes with their places."""
        config = refusal = None
        try:
            self.config = parser.parse_args([self.command, *self.options])
            config = self.config[self.command]
        except argparse.ArgumentError as error:
            refusal = error
        problems = configuration_problems(self.command_parser, self.options, str(refusal or ""), config)
        if problems:
            raise UsageError(*problems) from refusal
        self.config[self.command].run_dir = os.path.expanduser(self.config[self.command].run_dir)  # as Lightning does
        # Lightning would take hyperparameters from a checkpoint that it finds here. Only the state comes from there.
        self.ckpt_path, self.config[self.command].ckpt_path = self.config[self.command].ckpt_path, None

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint, and check for an earlier run, before anything expensive is made."""
        config = self.config[self.command]
        run_dir = Path(config.run_dir)
        which = self.ckpt_path
        if which is None and self.command == "fit":
            which = "last" if is_requeued() and checkpoints_in(run_dir, LAST_CHECKPOINT) else UNTRAINED
        config.ckpt_path = find_checkpoint(run_dir, which)
        if config.weights_only is None:
            config.weights_only = True  # pickled objects in a checkpoint could run any code
        if self._is_new_run(config):
            check_run_folder(run_dir, config.overwrite)
        if self.command == "predict" and config.return_predictions is None:
            config.return_predictions = False  # they are written to a file, batch by batch

    def _starts_run(self, config: Namespace) -> bool:
        """Whether a new run starts: from a checkpoint of another folder, too, but not with `fast_dev_run`."""
        run_dir = Path(config.run_dir).resolve()
        continues = config.ckpt_path is not None and Path(config.ckpt_path).parent.resolve().is_relative_to(run_dir)
        return self.command == "fit" and not continues and not config.trainer.fast_dev_run

    def _is_new_run(self, config: Namespace) -> bool:
        """Whether this process prepares the folder of a new run."""
        return self._starts_run(config) and getattr(rank_zero_only, "rank", 0) == 0

    def instantiate_classes(self) -> None:
        """Make module, data and trainer."""
        try:
            super().instantiate_classes()
        except RunError:
            raise
        except Exception as error:
            raise BuildError(error) from error

    def after_instantiate_classes(self) -> None:
        """Check that there are batches for the command."""
        if self.datamodule is None and not is_overridden(LOADERS[self.command], self.model):
            fix = "Give data a class_path, such as fuse_lightning.DataModuleDefault."
            raise UsageError(f"data: {self.command} needs batches. {fix}")

    def instantiate_trainer(self, **arguments: Any) -> pl.Trainer:
        """Make the trainer. It logs to the run folder unless the configuration has a logger."""
        config = self.config_init[self.command]
        if config.trainer.logger in (None, True):
            logs = self.command != "predict"  # which has nothing to log
            arguments.setdefault("logger", CSVLogger(config.run_dir, name=LOGS) if logs else False)
        try:
            trainer: Any = super().instantiate_trainer(**arguments)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            accelerator = config.trainer.accelerator
            if accelerator in ("auto", "cpu"):
                raise
            raise RunError(
                f"trainer.accelerator is {accelerator!r}, but: {error} To use what this machine has, add "
                f"--trainer.accelerator auto --trainer.devices auto"
            ) from error
        keeps_page = (Path(config.run_dir) / DATA_FILE).is_file() and not self._starts_run(config)
        has_callback = any(isinstance(callback, RunReport) for callback in trainer.callbacks)
        if (config.report or keeps_page) and not has_callback:
            trainer.callbacks.append(RunReport(config.run_dir))
        return cast(pl.Trainer, trainer)

    def fit(self, model: pl.LightningModule, **arguments: Any) -> None:
        """Train, and write the best epoch's value if there was a step."""
        config = self.config[self.command]
        run_dir = Path(config.run_dir)
        trainer: Any = self.trainer
        trainer.callbacks.append(Interruption(run_dir))
        is_new = self._is_new_run(config)
        with replace_earlier_run(run_dir, trainer.callbacks) if is_new else nullcontext():
            trainer.fit(model, **arguments)
        if trainer.is_global_zero and trainer.global_step and not trainer.fast_dev_run:
            write_result(trainer, run_dir / RESULT_FILE)

    def predict(self, model: pl.LightningModule, **arguments: Any) -> None:
        """Predict. The run folder gets the predictions unless a callback of the configuration writes them."""
        if isinstance(model, LightningModuleDefault) and model.prediction_keys is None:
            written = ", ".join(getattr(model.model, "writes", ())) or "unknown"
            problem = f"predict needs a list of the keys to write. The model writes: {written}."
            raise UsageError(f"model.init_args.prediction_keys: {problem}")
        config, trainer = self.config[self.command], cast(Any, self.trainer)
        path = Path(config.run_dir) / PREDICTIONS_FILE
        if not any(isinstance(callback, BasePredictionWriter) for callback in trainer.callbacks):
            if path.exists() and not config.overwrite:
                raise RunError(f"{path} exists already. Replace it with --overwrite, or move it away.")
            trainer.callbacks.append(PredictionsToFile(path))
        try:
            trainer.predict(model, **arguments)
        except OSError as error:
            if error.filename is not None or error.strerror is None:
                raise
            raise RunError(f"the predictions cannot be written to {path}: {error.strerror}. Make room.") from error
        for callback in trainer.callbacks:
            if isinstance(callback, PredictionsToFile) and trainer.is_global_zero:
                print(f"predictions: {callback.path}")  # noqa: T201
