"""The page of a run, written from the files in its folder."""

import base64
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
from .charts import confusion_table, line_chart, reliability_chart
from .class_predictions import calibration_error, class_scores, read_class_predictions, wilson_interval
from .page import escape, note, picture, section, table, tiles, write_html
from .wiring_drawing import wiring_drawing

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


def write_run_page(
    run_dir: Path, pred: str | None = None, target: str | None = None, class_names: Sequence[str] | None = None
) -> Path:
    """Write `index.html` from `report.json` and, if there is one, `predictions.csv`.

    Args:
        run_dir: the run folder.
        pred: see `read_class_predictions`.
        target: see `read_class_predictions`.
        class_names: the names of the classes; None numbers them.
    """
    data = json.loads((run_dir / DATA_FILE).read_text(encoding="utf-8"))
    epochs = {int(epoch): values for epoch, values in data["epochs"].items()}
    numbers, parts = _training(epochs, data.get("monitor"), data.get("mode", "min"))
    if data.get("test"):
        rows = [(name, f"{value:.4g}") for name, value in sorted(data["test"].items())]
        parts.append(section("Test", table(("value", "test"), rows, "Values of the last test.")))
    predictions = run_dir / PREDICTIONS_FILE
    if predictions.is_file():
        scores, sections = _classes(predictions, pred, target, class_names)
        numbers, parts = scores + numbers, parts + sections
    if data.get("worst"):
        parts.append(_worst(data["worst"], class_names))
    if data.get("wiring"):
        about = "Which component writes and reads which key in a training step."
        parts.append(
            section("Wiring", note(about), wiring_drawing(data["wiring"]["writers"], data["wiring"]["readers"]))
        )
    rows = list(data["environment"].items())
    parts.append(section("Environment", table(("what", "version"), rows, "The software and the device.", kind="texts")))
    name = f"Run <code>{escape(run_dir.resolve().name)}</code>"
    page = write_html(data.get("title", "Training run"), name, [tiles(numbers), *parts])
    with replace_file(run_dir / PAGE_FILE) as file:
        file.write(page.encode())
    return run_dir / PAGE_FILE


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
    charts = []
    for label in shown:
        lines = {
            mode_name: [
                (epoch, values[f"{mode_name}.{label}"])
                for epoch, values in sorted(epochs.items())
                if f"{mode_name}.{label}" in values
            ]
            for mode_name in ("train", "validation")
        }
        charts.append(line_chart(label, lines, best))
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


def _classes(
    path: Path, pred: str | None, target: str | None, class_names: Sequence[str] | None
) -> tuple[list[Any], list[str]]:
    """The numbers and the sections of predicted classes, if the file holds some."""
    found = read_class_predictions(path, pred, target)
    if found is None:
        return [], []
    counts = found.confusion()
    names = list(class_names or map(str, range(len(counts))))
    right, total = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(right, total)
    bins = found.calibration()
    error = calibration_error(*bins)
    rows = [
        (name, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", f"{count:.0f}")
        for name, (precision, recall, f1, count) in zip(names, class_scores(counts), strict=True)
    ]
    source = f"{total:,} samples of {path.name}: {found.pred_key} against {found.target_key}."
    numbers = [
        ("accuracy", f"{right / total:.4f}"),
        ("95 % interval", f"{low:.3f} to {high:.3f}"),
        ("calibration error", f"{error:.4f}"),
    ]
    return numbers, [
        section("Confusion matrix", note(source), confusion_table(counts, names)),
        section("Classes", table(("class", "precision", "recall", "F1", "samples"), rows, "The scores of each class.")),
        section(
            "Calibration",
            note(f"Expected calibration error {error:.4f}, from {len(bins[0])} bins of confidence."),
            reliability_chart(*bins),
        ),
    ]


def _worst(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str] | None) -> str:
    def name(index: int) -> str:
        return class_names[index] if class_names else str(index)

    images = [
        picture(
            base64.b64decode(case["png"]),
            f"Sample {case['id']}",
            f"{case['id']}: {name(case['target'])} predicted as {name(case['predicted'])}, "
            f"p({name(case['target'])}) = {case['probability']:.3f}",
        )
        for case in cases
    ]
    about = "The samples whose true class has the lowest predicted probability."
    return section("Worst cases", note(about), f'<div class="images">{"".join(images)}</div>')
