"""What several test files of the Lightning callback use."""

import logging
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_trainer(tmp_path: Path) -> Any:
    """Makes a quiet trainer on the CPU: `make_trainer(max_epochs=1, ...)`."""
    import pytorch_lightning as pl

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    def make(**arguments: Any) -> pl.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        where = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "logger": False}
        return pl.Trainer(**{**quiet, **where, **arguments})

    return make
