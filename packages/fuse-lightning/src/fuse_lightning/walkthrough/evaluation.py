"""The walkthrough's predictions and what they are worth."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score  # type: ignore[import-untyped]

from fuse_lightning import LightningModuleDefault, convert_predictions_to_dataframe

from .data import LABEL, Splits, make_loader
from .network import PROBABILITIES
from .training import BEST_CHECKPOINT, Settings

PREDICTED = "predicted"


def predict(trainer: pl.Trainer, module: LightningModuleDefault, settings: Settings, splits: Splits) -> Path:
    """Predict the test set with the best epoch's weights; returns the CSV file, a row per image."""
    loader = make_loader("test", splits.test, settings.batch_size)
    batches: Any = trainer.predict(module, loader, ckpt_path=settings.run_dir / BEST_CHECKPOINT, weights_only=True)
    table = convert_predictions_to_dataframe(batches)
    probabilities = table.filter(like=f"{PROBABILITIES}.")
    table[PREDICTED] = probabilities.to_numpy().argmax(axis=1)
    path = settings.run_dir / "predictions.csv"
    table.to_csv(path, index=False)
    return path


def evaluate(predictions: Path, run_dir: Path) -> float:
    """The accuracy of a CSV file of predictions; draws the confusion matrix."""
    table = pd.read_csv(predictions)
    draw_confusion_matrix(table, run_dir / "confusion_matrix.png")
    return float(accuracy_score(table[LABEL], table[PREDICTED]))


def draw_confusion_matrix(table: pd.DataFrame, path: Path) -> None:
    """How often each digit was taken for which."""
    figure = Figure(figsize=(7, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(table[LABEL], table[PREDICTED], ax=axes, cmap="Blues", colorbar=False)
    accuracy = accuracy_score(table[LABEL], table[PREDICTED])
    axes.set(
        title=f"{len(table):,} test images, accuracy {accuracy:.4f}", xlabel="predicted digit", ylabel="true digit"
    )
    figure.savefig(path, dpi=150)


def draw_learning_curves(metrics_csv: Path, path: Path) -> None:
    """Loss and accuracy of training and validation over the epochs, with the best epoch marked."""
    # A row per logging call: those of one epoch are put together.
    epochs = pd.read_csv(metrics_csv).groupby("epoch").mean()
    epochs.index = epochs.index.astype(int)
    best = epochs["validation.losses.total_loss"].idxmin()
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("losses.total_loss", "cross-entropy"), ("metrics.accuracy", "accuracy"))
    for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for mode in ("train", "validation"):
            axes.plot(epochs.index, epochs[f"{mode}.{name}"], marker=".", label=mode)
        axes.axvline(best, color="gray", linestyle=":", label=f"best epoch ({best})")
        axes.set(xlabel="epoch", ylabel=title, title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)
