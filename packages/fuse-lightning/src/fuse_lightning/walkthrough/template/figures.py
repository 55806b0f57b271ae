"""The parts that the pictures of both tasks share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .settings import BadInputError
from .start_run import LOGS_DIR

# For a slide: what is drawn at 9 x 6.75 inches with letters of 12 points and up can be read from the last row.
FONT = {"title": 15, "label": 13, "tick": 12, "cell": 12}
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no screen."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def read_learning_curves(run_dir: Path) -> pd.DataFrame:
    """What was logged, a row for each epoch; of an epoch that was trained again after `--resume`, what came last."""
    files = sorted((run_dir / LOGS_DIR / "csv").glob("version_*/metrics.csv"), key=_version)
    logs = [pd.read_csv(file) for file in files if file.stat().st_size > 0]
    # The logger writes several rows for an epoch, each with some of the values: they are put together.
    parts = [log.drop(columns="step").groupby("epoch").last() for log in logs if "epoch" in log]
    if not parts:
        raise BadInputError(f"{run_dir}/{LOGS_DIR}/csv holds no epoch that was trained to its end. Train first.")
    epochs = pd.concat(parts)
    epochs = epochs[~epochs.index.duplicated(keep="last")].sort_index()
    epochs.index = epochs.index.astype(int)
    return epochs


def _version(file: Path) -> int:
    return int(file.parent.name.removeprefix("version_"))


def draw_learning_curves(epochs: pd.DataFrame, curves: Sequence[tuple[str, str]], best_epoch: int, path: Path) -> None:
    """Loss and metric of training and validation over the epochs, with the best epoch marked."""
    figure = new_figure(6.4 * len(curves), 4.8)
    for axes, (name, title) in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
        for mode, color in (("train", "tab:blue"), ("validation", "tab:orange")):
            values = epochs[f"{mode}.{name}"].dropna()
            axes.plot(values.index, values, color=color, linewidth=2, marker="o", markersize=4, label=mode)
        axes.axvline(best_epoch, color="gray", linestyle=":", linewidth=2, label=f"best epoch ({best_epoch})")
        axes.set_title(title, fontsize=FONT["title"])
        axes.set_xlabel("epoch", fontsize=FONT["label"])
        axes.tick_params(labelsize=FONT["tick"])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=FONT["tick"], frameon=False)
    figure.savefig(path, dpi=DPI)


def draw_confusion_matrix(
    counts: np.ndarray, classes: Sequence[str], title: str, path: Path, percent: bool = False
) -> None:
    """How often each class was taken for which.

    Args:
        counts: [true class, predicted class].
        classes: their names.
        title: above the matrix.
        path: where the picture is written.
        percent: write each row's percentages in the cells, for counts too large to read, such as pixels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(9, 7.6)
    axes = figure.subplots()
    # Colors by row, so that a rare class is as visible as a frequent one.
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{100 * share:.1f}" if percent else f"{count}"
        hidden = share < 0.0005 if percent else count == 0
        color = "#c8c8c8" if hidden else "white" if share > 0.5 else "black"
        size = FONT["cell"] - (2 if percent else 0)
        axes.text(column, row, "·" if hidden else text, ha="center", va="center", color=color, fontsize=size)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, fontsize=FONT["tick"])
    for label in axes.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 3 else 0)
    axes.set_yticks(ticks, classes, fontsize=FONT["tick"])
    axes.set_xlabel("predicted", fontsize=FONT["label"])
    axes.set_ylabel("true", fontsize=FONT["label"])
    axes.set_title(title, fontsize=FONT["title"], pad=12)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda share, _: f"{100 * share:.0f} %")
    bar.set_label("share of the true class", fontsize=FONT["label"])
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=DPI)


def hide_axes(axes: Any) -> None:
    """A frame without ticks, for an image."""
    axes.set_xticks([])
    axes.set_yticks([])
