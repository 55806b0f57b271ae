"""Blocks 7 and 8 of the classification task, infer and evaluate: saves and evaluates the predictions.

Keys read, of the predicted batches: `data.sample_id`, `model.output.digit` [B, 10] and `data.label` [B].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fuse_core import SAMPLE_ID, output_key
from fuse_lightning import convert_predictions_to_dataframe
from fuse_lightning.report.class_predictions import wilson_interval
from fuse_lightning.run_folder import PREDICTIONS_FILE

from .classification_data import LABEL
from .figures import DPI, FONT, draw_confusion_matrix, hide_axes, new_figure
from .loaders import sample_ids
from .task import Evaluation, Picture, Samples, Splits, Table

PREDICTED = "predicted"
PROBABILITIES = output_key("digit")
DIGITS = [str(digit) for digit in range(10)]


def save_predictions(batches: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
    """Write `predictions.csv`: a row for each image, with its id, probabilities, label and most likely digit."""
    table = convert_predictions_to_dataframe(batches)
    table[PREDICTED] = _probabilities(table).argmax(axis=1)
    table.to_csv(run_dir / PREDICTIONS_FILE, index=False)


def _probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[f"{PROBABILITIES}.{digit}" for digit in DIGITS]].to_numpy()


def evaluate(run_dir: Path, splits: Splits) -> Evaluation:
    """Compute accuracy, precision and recall from `predictions.csv`; draw confusion matrix and worst-classified images.

    The file alone is evaluated. Another program may have written it.
    """
    table = pd.read_csv(run_dir / PREDICTIONS_FILE)
    label, predicted = table[LABEL].to_numpy(), table[PREDICTED].to_numpy()
    wrong = int((label != predicted).sum())
    accuracy = 1 - wrong / len(table)
    low, high = wilson_interval(len(table) - wrong, len(table))
    counts = confusion_matrix(label, predicted, labels=range(10))
    title = f"{len(table):,} test images, accuracy {accuracy:.4f}"
    draw_confusion_matrix(counts, DIGITS, title, run_dir / "confusion_matrix.png")
    draw_worst_classified(table, splits.test, run_dir / "worst_classified.png")
    scores = precision_recall_fscore_support(label, predicted, labels=range(10), zero_division=0)
    rows = [
        (digit, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(images))
        for digit, precision, recall, f1, images in zip(DIGITS, *scores, strict=True)
    ]
    return Evaluation(
        score_name="test accuracy",
        score=accuracy,
        numbers={"95 % interval": f"{low:.3f} to {high:.3f}", "misclassified": f"{wrong} of {len(table):,}"},
        tables=[Table("Each digit", ("digit", "precision", "recall", "F1", "images"), rows)],
        pictures=[
            Picture("confusion_matrix.png", "Confusion matrix", "How often each digit was predicted as which."),
            Picture(
                "worst_classified.png",
                "Worst-classified images",
                "The test images whose true digit has the lowest predicted probability. Red: misclassified.",
            ),
        ],
    )


def draw_worst_classified(table: pd.DataFrame, samples: Samples, path: Path, rows: int = 4, columns: int = 6) -> None:
    """Draw the images whose true digit has the lowest predicted probability, the worst first."""
    position = {sample_id: index for index, sample_id in enumerate(sample_ids("test", samples))}
    label, predicted = table[LABEL].to_numpy(), table[PREDICTED].to_numpy()
    of_truth = _probabilities(table)[np.arange(len(table)), label]
    figure = new_figure(2 * columns, 2.35 * rows)
    panels = figure.subplots(rows, columns).flat
    worst = np.argsort(of_truth, kind="stable")[: rows * columns]
    for axes, index in zip(panels, worst, strict=False):
        axes.imshow(samples.images[position[table[SAMPLE_ID][index]], 0], cmap="gray_r")
        hide_axes(axes)
        is_wrong = label[index] != predicted[index]
        color = "#c62828" if is_wrong else "#2e7d32"
        axes.spines[:].set(color=color, linewidth=2)
        title = f"{label[index]} taken for {predicted[index]}" if is_wrong else f"{label[index]}, right"
        axes.set_title(title, fontsize=FONT["label"], color=color)
        axes.set_xlabel(f"p({label[index]}) = {of_truth[index]:.3f}\n{table[SAMPLE_ID][index]}", fontsize=11)
    for axes in list(figure.axes)[len(worst) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=DPI)
