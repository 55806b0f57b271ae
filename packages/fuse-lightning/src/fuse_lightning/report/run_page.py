"""The page of a run, written from the files in its folder."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.atomic_file import replace_file
from ..epoch_table import epoch_rows
from ..run_folder import PREDICTIONS_FILE
from .charts import line_chart
from .compared_keys import Task, tasks_of
from .page import escape, note, section, table, tiles, write_html
from .prediction_columns import PredictionColumns
from .task_sections import TaskSections, task_sections
from .wiring_drawing import wiring_drawing
from .worst_cases import worst_cases

PAGE_FILE = "index.html"
DATA_FILE = "report.json"
PACKAGES = (
    "fuse-core",
    "fuse-lightning",
    "fuse-losses",
    "fuse-models",
    "fuse-optim",
    "pytorch-lightning",
    "torchmetrics",
)


def environment() -> dict[str, str]:
    """The versions and the device of this process."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {**versions, "device": device, "system": platform.platform(terse=True)}


def write_run_page(run_dir: Path, pred: str | None = None, target: str | None = None) -> Path:
    """Write `index.html` from `report.json` and, if there is one, `predictions.csv`.

    Args:
        run_dir: the run folder.
        pred: the key of the prediction to compare; None takes all.
        target: the key of its target; None takes what the run's losses and metrics compare, or else the only one.
    """
    data = json.loads((run_dir / DATA_FILE).read_text(encoding="utf-8"))
    epochs = {int(epoch): values for epoch, values in data["epochs"].items()}
    numbers, parts = _training(epochs, data.get("monitor"), data.get("mode", "min"))
    if data.get("test"):
        rows = [(name, f"{value:.4g}") for name, value in sorted(data["test"].items())]
        parts.append(section("Test", table(("value", "test"), rows, "Values of the last test.")))
    predictions = run_dir / PREDICTIONS_FILE
    if predictions.is_file():
        columns = PredictionColumns(predictions)
        tasks = tasks_of(columns.keys, data.get("compared", {}), pred, target, columns.with_pixels)
        scores, sections = _tasks(columns, tasks, data.get("class_names", {}), data.get("worst", {}))
        numbers, parts = scores + numbers, parts + sections
    if data.get("wiring"):
        about = "Which component writes and reads which key in a training step."
        parts.append(
            section("Wiring", note(about), wiring_drawing(data["wiring"]["writers"], data["wiring"]["readers"]))
        )
    rows = list(data["environment"].items())
    parts.append(section("Environment", table(("what", "version"), rows, "The software and the device.", kind="texts")))
    name = f"Run <code>{escape(run_dir.resolve().name)}</code>"
    top = [tiles(numbers)] if numbers else []
    page = write_html(data.get("title", "Training run"), name, [*top, *parts])
    with replace_file(run_dir / PAGE_FILE) as file:
        file.write(page.encode())
    return run_dir / PAGE_FILE


def _tasks(
    columns: PredictionColumns,
    tasks: Sequence[Task],
    class_names: Mapping[str, Sequence[str]],
    worst: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[tuple[str, str]], list[str]]:
    """The numbers and the sections of all tasks."""
    found: dict[str, tuple[Task, TaskSections]] = {}
    for task in tasks:
        names = class_names.get(task.pred, ())
        if task.name not in found and (sections := task_sections(columns, task, names)) is not None:
            found[task.name] = (task, sections)
    numbers, parts = [], []
    for task, own in found.values():
        of_task = f" of {task.name}" if len(found) > 1 else ""
        numbers += [(f"{name}{of_task}", number) for name, number in own.numbers]
        parts += [section(f"{title}{of_task}", *content) for title, content in own.sections.items()]
        if worst.get(task.pred):
            parts.append(
                section(f"Worst cases{of_task}", *worst_cases(worst[task.pred], class_names.get(task.pred, ())))
            )
    return numbers, parts


def _training(epochs: Mapping[int, Mapping[str, float]], monitor: str | None, mode: str) -> tuple[list[Any], list[str]]:
    """The numbers and the sections of the training."""
    if not epochs:
        return [], []
    last = max(epochs)
    monitored = {epoch: values[monitor] for epoch, values in epochs.items() if monitor and monitor in values}
    finite = {epoch: value for epoch, value in monitored.items() if value == value}
    best = (min if mode == "min" else max)(finite, key=finite.__getitem__) if finite else None
    numbers: list[Any] = []
    if best is not None:
        numbers = [(f"best {monitor}", f"{finite[best]:.4g}"), ("best epoch, counted from 0", best)]
    numbers.append(("epochs", len(epochs)))
    labels = dict.fromkeys(
        name.partition(".")[2]
        for values in epochs.values()
        for name in sorted(values)
        if name.startswith(("train.", "validation."))
    )
    whole_epochs = [one for one in labels if not (one.endswith("_step") and one.removesuffix("_step") in labels)]
    shown = [one for one in whole_epochs if f"{one.rpartition('.')[0]}.mean" not in labels or one.endswith(".mean")]
    charts: list[str] = []
    drawn: list[Any] = []
    for label in shown:
        lines = {
            mode_name: [
                (epoch, values[f"{mode_name}.{label}"])
                for epoch, values in sorted(epochs.items())
                if f"{mode_name}.{label}" in values
            ]
            for mode_name in ("train", "validation")
        }
        if lines not in drawn:  # the total of a single loss is that loss
            charts.append(line_chart(label, lines, best))
        drawn.append(lines)
    curves = section("Learning curves", f'<div class="charts">{"".join(charts)}</div>')
    whole, current = (
        {name: value for name, value in epochs.get(epoch, {}).items() if not _is_of_steps(name, epochs[last])}
        for epoch in (-1 if best is None else best, last)
    )
    _, rows = epoch_rows(whole, current, monitor or "", fold=False)
    header = ["value", *(name if name.startswith("best") else f"last {name}" for name in rows[0][1:])]
    caption = f"The best epoch ({best}) and the last one ({last}), counted from 0. * decides the best epoch."
    return numbers, [curves, section("Epochs", table(header, rows[1:], caption))]


def _is_of_steps(name: str, values: Mapping[str, float]) -> bool:
    """Whether a value is the mean since the last log, beside which the mean of the epoch is logged."""
    return name.endswith("_step") and name.removesuffix("_step") in values
