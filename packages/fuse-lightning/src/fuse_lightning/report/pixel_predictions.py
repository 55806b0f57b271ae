"""The quality of a segmentation, computed from the counts of pixels in `predictions.csv` alone."""

from collections.abc import Sequence

import numpy as np

from ..predictions.compared_keys import Task
from .charts import confusion_table
from .html_parts import TaskSections, note, number, table
from .prediction_columns import PredictionColumns, names_or_numbers

ABOUT = (
    "Dice over images: the mean of the images' values, of images where the class is true or predicted. Dice over "
    "pixels: one value of all pixels together. The means at the top leave out class 0, the background."
)


def dice(counts: np.ndarray) -> np.ndarray:
    r"""The Dice of each class; NaN for a class that is neither true nor predicted.

    .. math::
        Dice_c = \frac{2 \, |P_c \cap T_c|}{|P_c| + |T_c|}

    Args:
        counts: pixels, shape [..., true class, predicted class].

    Example:
        >>> dice(np.array([[8, 1], [0, 2]])).round(3)
        array([0.941, 0.8  ])
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        quotient: np.ndarray = 2 * both / either
    return quotient


def mean_dice(values: np.ndarray) -> np.ndarray:
    """The mean over classes, without class 0, the background; NaN where none of them is true or predicted.

    Args:
        values: the Dice of each class, shape [..., classes].
    """
    return _mean_of_known(values[..., 1:], axis=-1)


def _mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.nansum(values, axis=axis) / (~np.isnan(values)).sum(axis=axis)
    return mean


def pixel_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """Dice and confusion matrix; None if the columns hold no counts of pixels."""
    counts = columns.pixels(task.pred)
    if counts is None:
        return None
    missing = max(0, len(class_names) - counts.shape[1])  # the last classes do not occur
    counts = np.pad(counts, ((0, 0), (0, missing), (0, missing)))
    confusion = counts.sum(axis=0)
    of_images, over_pixels = dice(counts), dice(confusion)
    names = names_or_numbers(class_names, len(confusion))
    pixels = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        recall = confusion.diagonal() / pixels
    values = zip(*map(np.ndarray.tolist, (_mean_of_known(of_images, axis=0), over_pixels, recall)), strict=True)
    images = (~np.isnan(of_images)).sum(axis=0)
    rows = [
        (name, *map(number, own), f"{seen:,}", f"{true:,}")
        for name, own, seen, true in zip(names, values, images, pixels, strict=True)
    ]
    header = ("class", "Dice over images", "Dice over pixels", "recall of pixels", "images", "true pixels")
    percent = "Percent of the true class. " if confusion.sum() else ""
    numbers = [
        ("mean Dice over images", number(_mean_of_known(mean_dice(of_images), axis=0), 4)),
        ("mean Dice over pixels", number(mean_dice(over_pixels), 4)),
        ("images", f"{len(counts):,}"),
    ]
    sections = {
        "Classes": [
            note(ABOUT),
            table(header, rows, f"The Dice of each class of {task.name}, from {columns.path.name}."),
        ],
        "Confusion matrix of pixels": [
            note(f"{percent}{confusion.sum():,} pixels of {len(counts):,} images.{columns.loaders}"),
            confusion_table(confusion, names, f"Confusion matrix of {task.name}", percent=True),
        ],
    }
    return TaskSections(numbers, sections)
