"""Files of metrics that have a value for each class: a table as CSV, and a picture if matplotlib is installed."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..checkpoints.atomic_file import replace_file
from ..run_folder import METRIC_FILE


def write_metric_files(folder: Path, name: str, values: Tensor, class_names: Sequence[str]) -> None:
    """Write `metric_<name>.csv`, and `metric_<name>.png` if matplotlib is installed.

    Args:
        folder: the run folder.
        name: the name of the metric, with its mode.
        values: shape (classes,), or (classes, classes) for a confusion matrix: targets in rows, predictions in columns.
        class_names: a name for each class.
    """
    rows = values.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if values.ndim == 1:
        writer.writerows([("class", "value"), *zip(class_names, rows, strict=True)])
    else:
        writer.writerows([("target", *class_names), *([one, *row] for one, row in zip(class_names, rows, strict=True))])
    path = folder / f"{METRIC_FILE}_{name.replace('/', '_')}.csv"
    with replace_file(path) as file:
        file.write(text.getvalue().encode())
    if importlib.util.find_spec("matplotlib") is not None:
        _draw(path.with_suffix(".png"), name, rows, class_names)


def _draw(path: Path, name: str, rows: list[float] | list[list[float]], class_names: Sequence[str]) -> None:
    from matplotlib.figure import Figure  # without pyplot, which keeps figures in memory

    side = max(3.0, 0.4 * len(rows) + 1)
    positions = range(len(rows))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(positions, class_names, parse_math=False)
    axes.set_title(name, parse_math=False)
    if isinstance(rows[0], list):
        figure.colorbar(axes.imshow(rows, cmap="Blues"))
        axes.set_xticks(positions, class_names, rotation=90, parse_math=False)
        axes.set(xlabel="prediction", ylabel="target")
    else:
        axes.barh(positions, rows)
        axes.invert_yaxis()
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
