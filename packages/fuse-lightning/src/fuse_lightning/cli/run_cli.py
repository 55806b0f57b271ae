"""LightningCLI with a run folder, checkpoints found by name, and messages that name the mistake."""

import argparse
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
from fuse_lightning.report.run_report import RunReport
from fuse_lightning.run_folder import LAST_CHECKPOINT, PREDICTIONS_FILE

from .checkpoint_by_name import BY_NAME, UNTRAINED, checkpoints_in, find_checkpoint, find_checkpoint_to_evaluate
from .configuration.configuration_problems import USUAL, configuration_problems
from .earlier_run import RemoveEarlierRun, bring_back, check_run_folder, make_run_folder, set_aside
from .errors import BuildError, ConfigurationError, RunError
from .file_names import LOGS, RESULT_FILE
from .interruption import Interruption, is_requeued
from .result import write_result
from .save_run_config import SaveRunConfig

BASE_CLASSES = ("pytorch_lightning.LightningModule", "pytorch_lightning.core.module.LightningModule")
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
        ConfigurationError: the configuration is wrong; lists all mistakes with their places.
        BuildError: a class refused its arguments.
        RunError: the run folder holds another run, or a checkpoint does not exist.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.command_parsers: list[LightningArgumentParser] = []
        self.ckpt_path: Any = None
        super().__init__(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            parser_kwargs={"exit_on_error": False, **{name: {"exit_on_error": False} for name in self.subcommands()}},
            auto_configure_optimizers=False,  # the module has its own, from optimizers_and_lr_schs
            load_from_checkpoint_support=False,  # the configuration alone describes the module
            args=arguments,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, and link to it. Lightning calls this for each command in turn."""
        self.command_parsers.append(parser)
        parser.add_argument("--run_dir", type=str, default="runs/default", help="The folder for all files of the run.")
        parser.add_argument("--overwrite", action="store_true", help="Replace the files of an earlier run.")
        parser.add_argument("--report", action="store_true", help="Write a page of results, index.html.")
        parser.add_argument("--batch_spec", type=dict[str, Any] | None, help="Shapes and dtypes, for check.")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "model.init_args.model_dir")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and find all mistakes with their places."""
        command, *options = self.arguments
        config = refusal = None
        try:
            self.config = parser.parse_args(self.arguments)
            config = self.config[command]
        except argparse.ArgumentError as error:
            refusal = error
        parsers = dict(zip(self.subcommands(), self.command_parsers, strict=True))
        problems = configuration_problems(parsers[command], options, refusal, config)
        if problems:
            raise ConfigurationError(problems) from refusal
        # Lightning would take hyperparameters from a checkpoint that it finds here. Only the state comes from there.
        self.ckpt_path, self.config[command].ckpt_path = self.config[command].ckpt_path, None

    def before_instantiate_classes(self) -> None:
        """Find mistakes before anything expensive is made."""
        config = self.config[self.subcommand]
        if config.model.class_path in BASE_CLASSES:  # the parser's choice if the configuration names no class
            problem = f"model: it needs class_path, such as {USUAL['model']}, and its init_args."
            raise ConfigurationError([problem])
        self.prepare_run(config)

    def prepare_run(self, config: Namespace) -> None:
        """Find the checkpoint, and check for an earlier run."""
        run_dir = Path(config.run_dir)
        config.ckpt_path = self._checkpoint(run_dir, self.ckpt_path)
        if config.weights_only is None:
            config.weights_only = True  # pickled objects in a checkpoint could run any code
        if self._is_new_run(config):
            check_run_folder(run_dir, config.overwrite)
        if self.subcommand == "predict" and config.return_predictions is None:
            config.return_predictions = False  # they are written to a file, batch by batch

    def _checkpoint(self, run_dir: Path, which: Any) -> str | None:
        if which == UNTRAINED:
            return None
        if which is None and self.subcommand == "fit":
            continues = is_requeued() and checkpoints_in(run_dir, LAST_CHECKPOINT)
            return str(find_checkpoint(run_dir, "last")) if continues else None
        if which is None:
            return str(find_checkpoint_to_evaluate(run_dir))
        if which in BY_NAME:
            return str(find_checkpoint(run_dir, which))
        if not Path(which).is_file() and "://" not in str(which):
            raise RunError(f"--ckpt_path {which}: there is no such file. Give a path, or best or last.")
        return str(which)

    def _is_new_run(self, config: Namespace) -> bool:
        """Whether this process prepares the folder of a new run. A checkpoint of another folder starts a new run."""
        run_dir = Path(config.run_dir).resolve()
        continues = config.ckpt_path is not None and Path(config.ckpt_path).parent.resolve().is_relative_to(run_dir)
        return self.subcommand == "fit" and not continues and getattr(rank_zero_only, "rank", 0) == 0

    def fit(self, model: pl.LightningModule, **arguments: Any) -> None:
        """Train. A training that ends before its first step, by a wrong key or Ctrl-C, leaves the folder as it was."""
        config = self.config[self.subcommand]
        run_dir = Path(config.run_dir)
        trainer: Any = self.trainer
        interruption = Interruption(run_dir)
        interruption.handle_requeue_signal()
        trainer.callbacks.append(interruption)
        if not self._is_new_run(config):
            trainer.fit(model, **arguments)
            return
        make_run_folder(run_dir)
        trainer.callbacks.insert(0, RemoveEarlierRun(run_dir))
        try:
            set_aside(run_dir)
            trainer.fit(model, **arguments)
        finally:
            bring_back(run_dir)  # after the first step there is nothing to bring back

    def after_fit(self) -> None:
        """Write the best epoch's value, if there was a step."""
        trainer: Any = self.trainer
        if trainer.is_global_zero and trainer.global_step and not trainer.fast_dev_run:
            write_result(trainer, Path(self.config[self.subcommand].run_dir) / RESULT_FILE)

    def predict(self, model: pl.LightningModule, **arguments: Any) -> None:
        """Predict. An error of the disk names the file."""
        try:
            self.trainer.predict(model, **arguments)
        except OSError as error:
            if error.filename is not None or error.strerror is None:
                raise
            path = Path(self.config[self.subcommand].run_dir) / PREDICTIONS_FILE
            raise RunError(f"the predictions cannot be written to {path}: {error.strerror}. Make room.") from error

    def before_predict(self) -> None:
        """Have the predictions written to the run folder, unless a callback of the configuration writes them."""
        if isinstance(self.model, LightningModuleDefault) and self.model.prediction_keys is None:
            written = ", ".join(getattr(self.model.model, "writes", ())) or "unknown"
            problem = f"predict needs a list of the keys to write. The model writes: {written}."
            raise ConfigurationError([f"model.init_args.prediction_keys: {problem}"])
        trainer: Any = self.trainer
        if any(isinstance(callback, BasePredictionWriter) for callback in trainer.callbacks):
            return
        config = self.config[self.subcommand]
        path = Path(config.run_dir) / PREDICTIONS_FILE
        if path.exists() and not config.overwrite:
            raise RunError(f"{path} exists already. Replace it with --overwrite, or move it away.")
        trainer.callbacks.append(PredictionsToFile(path))

    def after_predict(self) -> None:
        """Print where the predictions are."""
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, PredictionsToFile) and trainer.is_global_zero:
                print(f"predictions: {callback.path}")  # noqa: T201

    def instantiate_classes(self) -> None:
        """Make module, data and trainer."""
        try:
            super().instantiate_classes()
        except (BuildError, ConfigurationError, RunError):
            raise
        except Exception as error:
            raise BuildError(error) from error

    def after_instantiate_classes(self) -> None:
        """Check that there are batches for the command."""
        if self.datamodule is None and not is_overridden(LOADERS[str(self.subcommand)], self.model):
            problem = f"needs batches. Give data a class_path, such as {USUAL['data']}."
            raise ConfigurationError([f"data: {self.subcommand} {problem}"])

    def instantiate_trainer(self, **arguments: Any) -> pl.Trainer:
        """Make the trainer. It logs to the run folder unless the configuration has a logger."""
        config = self.config_init[self.subcommand]
        if config.trainer.logger in (None, True):
            logs = self.subcommand != "predict"  # which has nothing to log
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
        if config.report and not any(isinstance(callback, RunReport) for callback in trainer.callbacks):
            trainer.callbacks.append(RunReport(config.run_dir))
        return cast(pl.Trainer, trainer)
