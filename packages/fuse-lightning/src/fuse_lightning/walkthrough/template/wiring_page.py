"""Checks before the first step that all keys exist, and writes `wiring.md`, which shows who reads and writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from fuse_core import Wiring
from fuse_lightning import check_step_wiring

WIRING_FILE = "wiring.md"
ABOUT = (
    "Which component writes and reads which key, as checked before the first step. A model is one component: the keys "
    "that only its own parts read, such as the backbone's features, have no reader here (-)."
)


def check_keys(module: pl.LightningModule, prediction_keys: Sequence[str], batch_dict: Mapping[str, Any]) -> Wiring:
    """Follow the keys from the batch through the module's model, losses and metrics.

    Raises:
        WiringError: a key is misspelled or missing. Names the component that reads it, and the nearest keys.
    """
    parts: Any = module  # a custom LightningModule uses the same names
    return check_step_wiring(batch_dict, parts.model, parts.losses, parts.train_metrics, prediction_keys)


def write_wiring(wiring: Wiring, run_dir: Path) -> None:
    """Write a table and a drawing to `wiring.md`."""
    keys = dict.fromkeys((*wiring.writers, *wiring.readers))
    rows = [(key, wiring.writers.get(key, "-"), ", ".join(wiring.readers.get(key, "-"))) for key in keys]
    table = [f"| {' | '.join(row)} |" for row in (("key", "written by", "read by"), ("---",) * 3, *rows)]
    notes = [f"\n{note}" for note in wiring.notes]
    text = "\n".join(["# Wiring", "", ABOUT, "", *table, *notes])
    (run_dir / WIRING_FILE).write_text(f"{text}\n\n```mermaid\n{wiring.to_mermaid()}\n```\n", encoding="utf-8")
