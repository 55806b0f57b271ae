"""Drawing that both tasks share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .settings import BadInputError
from .start_run import LOGS_DIR

# Large letters: a picture of 9 x 6.75 inches on a slide can be read from the last row.
FONT = {"title": 15, "label": 13, "tick": 12, "cell": 12}
DPI = 160
matplotlib.rcParams["text.parse_math"] = False  # a "$" in a name begins no formula


def new_figure(width: float, height: float) -> Figure:
    """A figure that is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def read_learning_curves(run_dir: Path) -> pd.DataFrame:
    """The logged values, a row for each epoch. If `--resume` trained an epoch again, the later values count."""
    files = sorted((run_dir / LOGS_DIR / "csv").glob("version_*/metrics.csv"), key=_version)
    logs = [pd.read_csv(file) for file in files if file.stat().st_size > 0]
    # The logger writes several rows for an epoch, each with some of its values. Combine them.
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
    """Draw loss and metric of training and validation over the epochs, and mark the best epoch."""
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
    """Draw how often each class was predicted as which.

    Args:
        counts: shape [true class, predicted class].
        classes: the names of the classes.
        title: the title of the picture.
        path: the file to write.
        percent: show percentages of each row instead of counts, for large counts such as pixels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(9, 7.6)
    axes = figure.subplots()
    # Colors show shares of each row, so that a rare class is as visible as a frequent one.
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
    """Remove the ticks, and keep the frame."""
    axes.set_xticks([])
    axes.set_yticks([])
