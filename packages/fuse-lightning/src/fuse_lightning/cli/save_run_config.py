"""Keeps the configuration of a run with its results."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from .file_names import CONFIG_FILE, CONFIG_FILES


class SaveRunConfig(SaveConfigCallback):
    """Writes the configuration to `config.yaml` in the run folder when training starts.

    Options that only concern the start of this run are left out, so that every command accepts `--config
    <run folder>/config.yaml`. A run that is continued with another configuration adds `config_2.yaml`, and so on.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **arguments: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **arguments)
        self.path: Path | None = None  # where this training's configuration is

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it, unless the newest file holds the same."""
        if stage != "fit":
            return
        config = self.config.clone()
        config.config, config.overwrite, config.ckpt_path, config.report = None, False, None, False
        text = self.parser.dump(config, skip_none=False)  # begins with CONFIG_START
        run_dir = Path(trainer.default_root_dir)
        earlier = sorted((path for names in CONFIG_FILES for path in run_dir.glob(names)), key=_time_written)
        if earlier and earlier[-1].read_text(encoding="utf-8") == text:
            self.path = earlier[-1]
            return
        names = (CONFIG_FILE, *(f"config_{number}.yaml" for number in range(2, len(earlier) + 2)))
        self.path = next(run_dir / name for name in names if not (run_dir / name).exists())
        run_dir.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text, encoding="utf-8")


def _time_written(path: Path) -> float:
    return path.stat().st_mtime
