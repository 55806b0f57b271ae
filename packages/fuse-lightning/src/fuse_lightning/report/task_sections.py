"""The part of a run's page on one task, from the columns of `predictions.csv`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..predictions.compared_keys import Task
from .charts import confusion_table, reliability_chart, scatter_chart
from .class_predictions import calibration_error, class_scores, read_class_predictions, wilson_interval
from .label_predictions import THRESHOLD, label_scores
from .number_predictions import number_scores
from .page import note, table
from .pixel_predictions import PixelPredictions, mean_dice
from .prediction_columns import PredictionColumns

MOST_CHARTS = 12  # of a prediction of many numbers


class TaskSections(NamedTuple):
    """Names and numbers for the top of the page, and sections by title."""

    numbers: list[tuple[str, str]]
    sections: dict[str, list[str]]


def task_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """The numbers and sections of a task; None if the columns hold nothing that can be compared.

    Args:
        columns: the predictions.
        task: the keys to compare.
        class_names: the names of the classes; empty numbers them.
    """
    kinds: tuple[Callable[[PredictionColumns, Task, Sequence[str]], TaskSections | None], ...]
    kinds = (_of_pixels, _of_classes, _of_labels, _of_numbers)
    return next((found for kind in kinds if (found := kind(columns, task, class_names)) is not None), None)


def _of_pixels(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    counts = columns.pixels(task.pred)
    if counts is None:
        return None
    if counts.shape[1] < len(class_names):  # the last classes do not occur
        missing = len(class_names) - counts.shape[1]
        counts = np.pad(counts, ((0, 0), (0, missing), (0, missing)))
    found = PixelPredictions(columns.ids, counts)
    names = _names(class_names, counts.shape[1])
    over_images = mean_dice(found.of_images)
    images = over_images[~np.isnan(over_images)]
    numbers = [
        ("mean Dice over images", f"{images.mean():.4f}" if len(images) else "-"),
        ("mean Dice over pixels", _number(float(mean_dice(found.over_pixels)), 4)),
        ("images", f"{len(counts):,}"),
    ]
    rows = []
    for index, name in enumerate(names):
        own = found.of_images[:, index]
        own = own[~np.isnan(own)]
        pixels = int(found.confusion[index].sum())
        recall = found.confusion[index, index] / pixels if pixels else float("nan")
        mean = own.mean() if len(own) else float("nan")
        texts = (_number(mean), _number(found.over_pixels[index]), _number(recall), f"{len(own):,}")
        rows.append((name, *texts, f"{pixels:,}"))
    about = (
        "Dice over images: the mean of the images' values, of images where the class is true or predicted. Dice over "
        "pixels: one value of all pixels together. The means at the top leave out class 0, the background."
    )
    header = ("class", "Dice over images", "Dice over pixels", "recall of pixels", "images", "true pixels")
    percent = "Percent of the true class. " if found.confusion.sum() else ""
    sections = {
        "Classes": [
            note(about),
            table(header, rows, f"The Dice of each class of {task.name}, from {columns.path.name}."),
        ],
        "Confusion matrix of pixels": [
            note(f"{percent}{found.confusion.sum():,} pixels of {len(counts):,} images."),
            confusion_table(found.confusion, names, f"Confusion matrix of {task.name}", percent=True),
        ],
    }
    return TaskSections(numbers, sections)


def _of_classes(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    found = read_class_predictions(columns, task)
    if found is None:
        return None
    counts = found.confusion()
    right, total = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(right, total)
    bins = found.calibration()
    error = calibration_error(*bins)
    names = _names(class_names, len(counts))
    rows = [
        (name, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", f"{count:.0f}")
        for name, (precision, recall, f1, count) in zip(names, class_scores(counts), strict=True)
    ]
    numbers = [
        ("accuracy", f"{right / total:.4f}"),
        ("95 % interval", f"{low:.3f} to {high:.3f}"),
        ("calibration error", f"{error:.4f}"),
    ]
    header = ("class", "precision", "recall", "F1", "samples")
    sections = {
        "Confusion matrix": [
            note(_source(columns, task, total)),
            confusion_table(counts, names, f"Confusion matrix of {task.name}"),
        ],
        "Classes": [table(header, rows, f"The scores of each class of {task.name}.")],
        "Calibration": [
            note(f"Expected calibration error {error:.4f}, from {len(bins[0])} bins of confidence."),
            reliability_chart(*bins),
        ],
    }
    return TaskSections(numbers, sections)


def _of_labels(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    pair = _of_one_shape(columns, task)
    if pair is None:
        return None
    probabilities, target = pair
    if task.pred.startswith("model.logits."):
        probabilities = np.exp(-np.logaddexp(0, -probabilities))  # a sigmoid without overflow
    target = np.where(np.isin(target, (0, 1)), target, np.nan)
    unknown = pair[1][np.isnan(target)]
    are_labels = not np.isnan(target).all() and not (unknown >= 0).any()
    if not (are_labels and (probabilities >= 0).all() and (probabilities <= 1).all()):
        return None
    scores = label_scores(probabilities, target)
    names = _names(class_names, len(scores)) if len(scores) > 1 else [task.name]
    rows = [
        (name, *map(_number, own[:4]), f"{own[4]:,.0f}", f"{own[5]:,.0f}")
        for name, own in zip(names, scores, strict=True)
    ]
    f1, area = scores[:, 2].mean(), scores[~np.isnan(scores[:, 3]), 3]
    mean = "mean " if len(scores) > 1 else ""
    numbers = [(f"{mean}AUROC", f"{area.mean():.4f}" if len(area) else "-"), (f"{mean}F1", f"{f1:.4f}")]
    header = ("label", "precision", "recall", "F1", "AUROC", "positive", "labelled")
    about = f"{_source(columns, task, _known(target))} A label is predicted above a probability of {THRESHOLD}."
    return TaskSections(
        numbers, {"Labels": [note(about), table(header, rows, f"The scores of each label of {task.name}.")]}
    )


def _of_numbers(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    pair = _of_one_shape(columns, task)
    if pair is None or not np.isfinite(pair[1]).any(axis=0).all() or not np.isfinite(pair[0]).all():
        return None
    predicted, target = pair
    count = predicted.shape[1]
    names = _names(class_names, count) if count > 1 else [task.name]
    scores = [number_scores(predicted[:, index], target[:, index]) for index in range(count)]
    rows = [
        (name, *(f"{value:.4g}" for value in own[:4]), f"{own[4]:,}") for name, own in zip(names, scores, strict=True)
    ]
    mean = np.mean([own[:3] for own in scores], axis=0)
    titles = ("mean absolute error", "root mean squared error", "R²")
    header = ("value", *titles, "mean error", "samples")
    charts = [
        scatter_chart(name, target[:, index], predicted[:, index]) for index, name in enumerate(names[:MOST_CHARTS])
    ]
    sections = {
        "Errors": [
            note(_source(columns, task, _known(target))),
            table(header, rows, f"The errors of each value of {task.name}."),
        ],
        "Predicted against true": [f'<div class="charts">{"".join(charts)}</div>'],
    }
    return TaskSections([(title, f"{value:.4g}") for title, value in zip(titles, mean, strict=True)], sections)


def _of_one_shape(columns: PredictionColumns, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers predicted and true, if there are as many of both for each sample."""
    predicted, target = columns.numbers(task.pred), columns.numbers(task.target)
    if predicted is None or target is None or predicted.shape != target.shape:
        return None
    return predicted, target


def _names(class_names: Sequence[str], count: int) -> list[str]:
    return list(class_names) if len(class_names) == count else [str(index) for index in range(count)]


def _number(value: float, digits: int = 3) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _known(target: np.ndarray) -> int:
    """How many samples have a known target, of shape [samples, values]."""
    return int(np.isfinite(target).any(axis=1).sum())


def _source(columns: PredictionColumns, task: Task, samples: int) -> str:
    left_out = len(columns.ids) - samples
    unknown = f" {left_out:,} samples without a known target are left out." if left_out else ""
    return f"{samples:,} samples of {columns.path.name}: {task.pred} against {task.target}.{unknown}"
