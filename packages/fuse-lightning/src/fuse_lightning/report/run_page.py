"""The page of a run, written from the files in its folder."""

import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.atomic_file import replace_file
from ..epoch_table import NAME, epoch_rows
from ..predictions.compared_keys import Task, compared_target, tasks_of
from ..run_folder import PREDICTIONS_FILE
from .charts import line_chart
from .html_parts import TaskSections, escape, note, section, table, tiles, write_html
from .prediction_columns import PredictionColumns
from .task_sections import task_sections
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
NOT_COMPARED = (
    "{0.pred} and {0.target} in predictions.csv are neither probabilities and classes, nor probabilities and labels, "
    "nor numbers. One NaN or text among the predictions is enough."
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


def write_run_page(run_dir: Path, pred: str | None = None, target: str | None = None, more: Sequence[str] = ()) -> None:
    """Write `index.html` from `report.json` and, if the last prediction wrote it, `predictions.csv`.

    Args:
        run_dir: the run folder.
        pred: the key of the prediction to compare; None takes all.
        target: the key of its target; None takes what the run's losses and metrics compare. If they compare nothing, it
            takes the only target.
        more: further sections, HTML.
    """
    data = json.loads((run_dir / DATA_FILE).read_text(encoding="utf-8"))
    epochs = {int(epoch): values for epoch, values in data["epochs"].items()}
    numbers, parts = _training(epochs, data.get("monitor"), data.get("mode", "min"), data.get("best_score"))
    if data.get("test"):
        rows = [(name, f"{value:.4g}") for name, value in sorted(data["test"].items())]
        parts.append(section("Test", table(("value", "test"), rows, "Values of the last test.")))
    predictions = run_dir / PREDICTIONS_FILE
    # A file that was there before the last prediction may be of another model.
    if "compared" in data and time_written(predictions) not in (None, data.get("earlier_predictions")):
        columns = PredictionColumns(predictions)
        tasks = tasks_of(columns.keys, data["compared"], pred, target, columns.with_pixels)
        asked = {pred, *(task.pred for task in tasks if compared_target(task.pred, data["compared"]))}
        scores, sections = _tasks(columns, tasks, asked, data.get("class_names", {}), data.get("worst", {}))
        numbers, parts = scores + numbers, parts + sections
    parts += more
    if data.get("wiring"):
        parts.append(_wiring(data["wiring"]["writers"], data["wiring"]["readers"]))
    rows = list(data["environment"].items())
    parts.append(section("Environment", table(("what", "version"), rows, "The software and the device.", kind="texts")))
    name = f"Run <code>{escape(run_dir.resolve().name)}</code>"
    top = [tiles(numbers)] if numbers else []
    page = write_html(data.get("title", "Training run"), name, [*top, *parts])
    with replace_file(run_dir / PAGE_FILE) as file:
        file.write(page.encode(errors="backslashreplace"))  # a file name may hold bytes that are not valid text


def time_written(path: Path) -> int | None:
    """When the file was written, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _wiring(writers: Mapping[str, str], readers: Mapping[str, Sequence[str]]) -> str:
    about = "Which component writes and reads which key in a training step."
    keys = dict.fromkeys((*writers, *readers))
    rows = [(key, writers.get(key, "-"), ", ".join(readers.get(key, "-"))) for key in keys]
    header = ("key", "written by", "read by")
    return section("Wiring", note(about), wiring_drawing(writers, readers), table(header, rows, "All keys.", "texts"))


def _tasks(
    columns: PredictionColumns,
    tasks: Sequence[Task],
    asked: Collection[str | None],
    class_names: Mapping[str, Sequence[str]],
    worst: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[tuple[str, str]], list[str]]:
    """The numbers and the sections of all tasks, and which of the predictions that are asked for fit no section."""
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
    without = {task.name: task for task in reversed(tasks) if task.pred in asked and task.name not in found}
    if without:
        parts.append(section("Not compared", *(note(NOT_COMPARED.format(task)) for task in without.values())))
    return numbers, parts


def _training(
    epochs: Mapping[int, Mapping[str, float]], monitor: str | None, mode: str, score: float | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """The numbers and the sections of the training.

    `score` is the best checkpoint's value, which may be of a validation inside an epoch. None takes the best epoch's.
    """
    if not epochs:
        return [], []
    monitored = {epoch: values[monitor] for epoch, values in epochs.items() if monitor and monitor in values}
    known = {epoch: value for epoch, value in monitored.items() if not math.isnan(value)}
    if score is None or not math.isfinite(score):
        score = (min if mode == "min" else max)(known.values()) if known else None
    best = next((epoch for epoch, value in known.items() if value == score), None)
    numbers = [] if score is None else [(f"best {monitor}", f"{score:.4g}")]
    if best is not None:
        numbers.append(("best epoch, counted from 0", str(best)))
    numbers.append(("epochs", str(len(epochs))))
    last = max(epochs)
    of_steps = {name for name in epochs[last] if name.endswith("_step") and name.removesuffix("_step") in epochs[last]}
    of_best, of_last = (
        {name: value for name, value in epochs.get(epoch, {}).items() if name not in of_steps}
        for epoch in (-1 if best is None else best, last)
    )
    _, (modes, *rows) = epoch_rows(of_best, of_last, monitor or "", fold=False)
    header = ["value", *(name if name.startswith("best") else f"last {name}" for name in modes[1:])]
    which = "The last epoch" if best is None else f"The best epoch ({best}) and the last one"
    caption = f"{which} ({last}), counted from 0. * decides the best epoch."
    curves = f'<div class="charts">{"".join(_learning_curves(epochs, best))}</div>'
    return numbers, [section("Learning curves", curves), section("Epochs", table(header, rows, caption))]


def _learning_curves(epochs: Mapping[int, Mapping[str, float]], best: int | None) -> list[str]:
    """A chart for each value; of the values of classes, only for their mean."""
    labels: dict[str, dict[str, str]] = {}  # the logged names of each value, by mode
    for values in epochs.values():
        for match in filter(None, map(NAME.fullmatch, sorted(values))):
            labels.setdefault(match[2], {})["train" if match[1] == "train" else "validation"] = match[0]
    drawn: dict[str, Any] = {}
    for label, names in labels.items():
        mean = re.sub(r"(?<=[./])[^./]+$", "mean", label)
        is_of_steps = label.endswith("_step") and label.removesuffix("_step") in labels
        lines = {
            mode: [(epoch, values[name]) for epoch, values in sorted(epochs.items()) if name in values]
            for mode, name in sorted(names.items())
        }
        is_new = lines not in drawn.values()  # the total of a single loss is that loss
        if is_new and not is_of_steps and not (mean != label and mean in labels):
            drawn[label] = lines
    return [line_chart(label, lines, best) for label, lines in drawn.items()]
