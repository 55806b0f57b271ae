"""What the ported programs share, and the numbers of fuse-med-ml to compare with."""

import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from fuse_core import DatasetWrapSeqToDict, collate
from fuse_lightning import LightningModuleDefault, MetricDefault, convert_predictions_to_dataframe
from fuse_losses import LossDefault

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
        folder,
        model,
        losses,
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
    return logged, convert_predictions_to_dataframe(predictions, cells=True, id_column="id")


def check_classifier(
    expected: dict[str, Any],
    folder: Path,
    model: nn.Module,
    batches: DataLoader,
    head: str,
    metric: str,
    classes: int,
    lr: float = 0.05,
) -> None:
    """Train with cross-entropy and `metric`, "auc" or "accuracy", and compare with the numbers of fuse-med-ml."""
    output = f"model.output.{head}"
    losses = {"cls_loss": LossDefault(pred=f"model.logits.{head}", target="data.label", callable=F.cross_entropy)}
    value = MulticlassAUROC(classes) if metric == "auc" else MulticlassAccuracy(classes, average="micro")
    metrics = {metric: MetricDefault(pred=output, target="data.label", metric=value)}
    monitor = {"monitor": f"validation.metrics.{metric}", "mode": "max"}

    logged, table = train_and_predict(folder, model, losses, metrics, batches, output, monitor, lr)

    name_there = f"metrics.{metric}" + (".macro_avg" if metric == "auc" else "")
    for mode in ("train", "validation"):
        for loss in ("cls_loss", "total_loss"):
            there = expected["logged"][f"{mode}.losses.{loss}"]
            assert logged[f"{mode}.losses.{loss}"] == pytest.approx(there, abs=1e-5)
        there = expected["logged"][f"{mode}.{name_there}"]
        assert logged[f"{mode}.metrics.{metric}"] == pytest.approx(there, abs=1e-6)
    assert list(table.columns) == expected["columns"]
    assert table[output][0].tolist() == pytest.approx(expected["predicted"], abs=1e-5)
    value.reset()
    value.update(torch.from_numpy(np.stack(table[output])), torch.tensor(table["data.label"].to_numpy()))
    assert value.compute().item() == pytest.approx(expected["evaluated"][name_there], abs=1e-6)


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
    functions = {one.__name__: one for one in (loader, train_and_predict, check_classifier)}
    return SimpleNamespace(**vars(synthetic), **functions)
