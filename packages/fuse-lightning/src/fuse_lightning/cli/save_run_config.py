"""Keeps the configuration of a run with its results."""

import shlex
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from .run_folder import CONFIG_FILE, CONFIG_FILES


class SaveRunConfig(SaveConfigCallback):
    """Writes the configuration to `config.yaml` in the run folder when a training starts.

    What says only how this run was started is left out, so that `--config <run folder>/config.yaml` serves each
    command. A run that goes on with another configuration adds `config_2.yaml`, and so on.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **arguments: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **arguments)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it, once for each configuration."""
        if stage != "fit":
            return
        config = self.config.clone()
        config.config, config.overwrite, config.ckpt_path = None, False, None
        text = self.parser.dump(config, skip_none=False)  # starts with CONFIG_START
        run_dir = Path(trainer.default_root_dir)
        earlier = sorted(
            (path for names in CONFIG_FILES for path in run_dir.glob(names)), key=lambda path: path.stat().st_mtime
        )
        if earlier and earlier[-1].read_text(encoding="utf-8") == text:
            return
        name = f"config_{len(earlier) + 1}.yaml" if earlier else CONFIG_FILE
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.joinpath(name).write_text(text, encoding="utf-8")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tell how to continue after Ctrl-C."""
        run_dir = Path(trainer.default_root_dir)
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and any(run_dir.rglob("last*.ckpt")):
            print(  # noqa: T201
                f"\nInterrupted. To continue from the last checkpoint:\n"
                f"  fuse-lightning fit --config {shlex.quote(str(run_dir / CONFIG_FILE))} --ckpt_path last"
            )
