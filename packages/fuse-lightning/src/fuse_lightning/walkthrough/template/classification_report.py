"""Blocks 7 and 8 of the classification task, infer and evaluate: saves and evaluates the predictions.

Keys read, of the predicted batches: `data.sample_id`, `model.output.digit` [B, 10] and `data.label` [B].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fuse_core import SAMPLE_ID, output_key
from fuse_lightning import convert_predictions_to_dataframe
from fuse_lightning.report.class_predictions import wilson_interval
from fuse_lightning.run_folder import PREDICTIONS_FILE

from .classification_data import DIGITS, LABEL
from .figures import DPI, draw_confusion_matrix, new_figure
from .loaders import sample_ids
from .task import Evaluation, Samples, Splits

PREDICTED = "predicted"
PROBABILITIES = output_key("digit")


def save_predictions(batches: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
    """Write `predictions.csv`: a row for each image, with its id, probabilities, label and most likely digit."""
    table = convert_predictions_to_dataframe(batches)
    table[PREDICTED] = _probabilities(table).argmax(axis=1)
    table.to_csv(run_dir / PREDICTIONS_FILE, index=False)


def _probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[f"{PROBABILITIES}.{digit}" for digit in DIGITS]].to_numpy()


def evaluate(run_dir: Path, splits: Splits) -> Evaluation:
    """Compute the accuracy from `predictions.csv`; draw confusion matrix and worst-classified images for slides.

    The file alone is evaluated. The page shows precision, recall and calibration too.
    """
    table = pd.read_csv(run_dir / PREDICTIONS_FILE)
    label, predicted = table[LABEL].to_numpy(), table[PREDICTED].to_numpy()
    wrong = int((label != predicted).sum())
    accuracy = 1 - wrong / len(table)
    low, high = wilson_interval(len(table) - wrong, len(table))
    title = f"{len(table):,} test images, accuracy {accuracy:.4f}"
    draw_confusion_matrix(label, predicted, DIGITS, title, run_dir / "confusion_matrix.png")
    draw_worst_classified(table, splits.test, run_dir / "worst_classified.png")
    return Evaluation(
        score_name="test accuracy",
        score=accuracy,
        numbers={"95 % interval": f"{low:.3f} to {high:.3f}", "misclassified": f"{wrong} of {len(table):,}"},
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
        axes.set(xticks=[], yticks=[])
        is_wrong = label[index] != predicted[index]
        color = "#c62828" if is_wrong else "#2e7d32"
        axes.spines[:].set(color=color, linewidth=2)
        title = f"{label[index]} taken for {predicted[index]}" if is_wrong else f"{label[index]}, right"
        axes.set_title(title, fontsize=13, color=color)
        axes.set_xlabel(f"p({label[index]}) = {of_truth[index]:.3f}\n{table[SAMPLE_ID][index]}", fontsize=11)
    for axes in list(figure.axes)[len(worst) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=DPI)
