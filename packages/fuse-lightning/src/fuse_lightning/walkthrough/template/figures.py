"""Pictures for slides that both tasks share."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from fuse_lightning.report.run_page import DATA_FILE

from .settings import BadInputError
from .task import Task

# Large letters: a picture of 9 x 6.75 inches on a slide can be read from the last row.
matplotlib.rcParams.update({"font.size": 12, "axes.titlesize": 15, "axes.labelsize": 13})
matplotlib.rcParams["text.parse_math"] = False  # a "$" in a name begins no formula
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """A figure that is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def read_learning_curves(run_dir: Path) -> pd.DataFrame:
    """The logged values, a row for each epoch, as `RunReport` keeps them in `report.json`."""
    data = json.loads((run_dir / DATA_FILE).read_text(encoding="utf-8"))
    if not data["epochs"]:
        raise BadInputError(f"{run_dir}/{DATA_FILE} holds no epoch that was trained to its end. Train first.")
    epochs = pd.DataFrame.from_dict(data["epochs"], orient="index").rename_axis("epoch")
    epochs.index = epochs.index.astype(int)
    return epochs


def draw_learning_curves(epochs: pd.DataFrame, task: Task, path: Path) -> None:
    """Draw loss and metric of training and validation over the epochs, and mark the best epoch."""
    monitored = epochs[task.BEST_EPOCH_SOURCE["monitor"]]
    best = monitored.idxmin() if task.BEST_EPOCH_SOURCE["mode"] == "min" else monitored.idxmax()
    figure = new_figure(6.4 * len(task.CURVES), 4.8)
    panels = np.atleast_1d(figure.subplots(1, len(task.CURVES)))
    for axes, (name, title) in zip(panels, task.CURVES, strict=True):
        for mode in ("train", "validation"):
            epochs[f"{mode}.{name}"].plot(ax=axes, label=mode, title=title, linewidth=2, marker="o", markersize=4)
        axes.axvline(best, color="gray", linestyle=":", linewidth=2, label=f"best epoch ({best})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=DPI)


def draw_confusion_matrix(
    true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str, path: Path, percent: bool = False
) -> None:
    """Draw how often each class was predicted as which.

    Args:
        true: the class of each sample or pixel, shape [N].
        predicted: the predicted one, shape [N].
        classes: the names of the classes.
        title: the title of the picture.
        path: the file to write.
        percent: show percentages of each true class instead of counts, for large counts such as pixels.
    """
    figure = new_figure(9, 7.6)
    axes = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        true,
        predicted,
        labels=range(len(classes)),
        display_labels=classes,
        normalize="true" if percent else None,
        values_format=".1%" if percent else "d",
        text_kw={"fontsize": 9 if percent else 12},
        cmap="Blues",
        ax=axes,
    )
    for label in axes.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 3 else 0)
    axes.set_title(title, pad=12)
    figure.savefig(path, dpi=DPI)
