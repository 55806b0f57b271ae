"""What the ported programs share, and the numbers of fuse-med-ml to compare with."""

import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fuse_core import DatasetWrapSeqToDict, collate
from fuse_lightning import LightningModuleDefault, convert_predictions_to_dataframe

EXPECTED = Path(__file__).with_name("expected.json")


def loader(keys: list[str], *tensors: Tensor) -> DataLoader:
    """Batches of four samples that hold the tensors under the keys."""
    dataset = DatasetWrapSeqToDict(TensorDataset(*tensors), sample_keys=keys, name="train")
    return DataLoader(dataset, batch_size=4, collate_fn=collate)


def train_and_predict(
    folder: Path,
    model: nn.Module,
    losses: dict[str, nn.Module],
    metrics: dict[str, Any],
    batches: DataLoader,
    prediction: str,
    monitor: dict[str, str],
    lr: float = 0.05,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Train two epochs, then predict from the last checkpoint.

    Returns:
        What was logged in the last epoch, and the table of predictions.
    """
    module = LightningModuleDefault(
        model_dir=folder,
        model=model,
        losses=losses,
        train_metrics=metrics,
        validation_metrics=metrics,
        optimizers_and_lr_schs=torch.optim.SGD(model.parameters(), lr=lr),
        best_epoch_source=monitor,
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, default_root_dir=folder, **quiet)
    trainer.fit(module, batches, batches)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    module = LightningModuleDefault.load_from_checkpoint(folder / "last.ckpt", model_dir=folder, model=model)
    module.set_predictions_keys([prediction, "data.label"])
    predictions = pl.Trainer(accelerator="cpu", **quiet).predict(module, batches)
    return logged, convert_predictions_to_dataframe(predictions)


@pytest.fixture
def expected(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What fuse-med-ml gives for the program of this test file: `test_prostate.py` → "prostate"."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    numbers = json.loads(EXPECTED.read_text())
    return numbers[request.path.stem.removeprefix("test_")]


@pytest.fixture
def migration() -> SimpleNamespace:
    """The functions of this file and of synthetic.py, which a test cannot import."""
    spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    return SimpleNamespace(**vars(synthetic), loader=loader, train_and_predict=train_and_predict)
