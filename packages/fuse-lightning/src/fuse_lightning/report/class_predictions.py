"""The quality of predicted classes, computed from `predictions.csv` alone."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuse_core import SAMPLE_ID

BINS = 15


@dataclass(frozen=True)
class ClassPredictions:
    """Predicted probabilities and true classes.

    Attributes:
        ids: the samples' identifiers.
        probabilities: shape [samples, classes].
        target: the true class of each sample, shape [samples].
        pred_key: the key of the probabilities.
        target_key: the key of the true classes.
    """

    ids: Sequence[str]
    probabilities: np.ndarray
    target: np.ndarray
    pred_key: str
    target_key: str

    @property
    def predicted(self) -> np.ndarray:
        """The most likely class of each sample, shape [samples]."""
        predicted: np.ndarray = np.argmax(self.probabilities, axis=1)
        return predicted

    def confusion(self) -> np.ndarray:
        """How often each class was predicted as which, shape [true class, predicted class]."""
        classes = self.probabilities.shape[1]
        flat = np.bincount(self.target * classes + self.predicted, minlength=classes**2)
        return flat.reshape(classes, classes)

    def calibration(self, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, accuracy and share of the samples in bins of equal width, each of shape [bins]."""
        confidence = self.probabilities.max(axis=1)
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        count = np.bincount(place, minlength=bins)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(place, weights=confidence, minlength=bins) / count
            accuracy = np.bincount(place, weights=self.predicted == self.target, minlength=bins) / count
        return mean, accuracy, count / len(place)


def calibration_error(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> float:
    r"""The expected calibration error.

    .. math::
        ECE = \sum_b \frac{n_b}{n} \, |acc_b - conf_b|

    Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.

    Args:
        confidence: mean confidence of each bin, shape [bins].
        accuracy: accuracy of each bin, shape [bins].
        share: share of the samples in each bin, shape [bins].

    Example:
        >>> calibration_error(np.array([0.6, 0.9]), np.array([0.5, 1.0]), np.array([0.5, 0.5]))
        0.1
    """
    return round(float(np.nansum(share * np.abs(accuracy - confidence))), 12)


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that holds the true rate with 95 % confidence.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". It stays within [0, 1],
    and is accurate near 1, where accuracies lie.

    Example:
        >>> "{:.3f} to {:.3f}".format(*wilson_interval(8, 10))
        '0.490 to 0.943'
    """
    rate = successes / trials
    center = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return float(center - half), float(center + half)


def class_scores(confusion: np.ndarray) -> np.ndarray:
    """Precision, recall, F1 and number of samples of each class, shape [classes, 4]; 0 where nothing is predicted."""
    right = np.diag(confusion).astype(float)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    return np.stack([right / np.maximum(predicted, 1), right / np.maximum(true, 1), f1, true], axis=1)


def read_class_predictions(path: Path, pred: str | None = None, target: str | None = None) -> ClassPredictions | None:
    """Probabilities and true classes from a file that `PredictionsToFile` wrote.

    Args:
        path: the CSV file.
        pred: the key of the probabilities, with columns `<pred>.0`, `<pred>.1` and so on. None takes the only one.
        target: the key of the true classes. None takes the only one.

    Returns:
        The predictions; None if the file holds no such columns, or more than one possible choice.
    """
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = {name: [row[position] for row in rows] for position, name in enumerate(header)}
    stems = [name.removesuffix(".1") for name in header if name.endswith(".1")]
    groups = {
        stem: group for stem in stems if pred in (None, stem) and (group := _probabilities(columns, stem)) is not None
    }
    if len(groups) != 1:
        return None
    ((pred_key, probabilities),) = groups.items()
    scores = tuple(f"{stem}." for stem in stems)
    names = [name for name in header if target in (None, name) and name != SAMPLE_ID and not name.startswith(scores)]
    classes = {name: whole for name in names if (whole := _classes(columns[name], probabilities.shape[1])) is not None}
    if len(classes) != 1:
        return None
    ((target_key, true),) = classes.items()
    ids = columns.get(SAMPLE_ID, [str(index) for index in range(len(rows))])
    return ClassPredictions(ids, probabilities, true, pred_key, target_key)


def _probabilities(columns: dict[str, list[str]], stem: str) -> np.ndarray | None:
    count = next(count for count in range(len(columns) + 1) if f"{stem}.{count}" not in columns)
    try:
        values = np.array([columns[f"{stem}.{index}"] for index in range(count)], dtype=float).T
    except ValueError:
        return None
    is_one = values.size and values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    return values if is_one else None


def _classes(texts: list[str], count: int) -> np.ndarray | None:
    try:
        values = np.array(texts, dtype=float)
    except ValueError:
        return None
    is_class = (values == values.round()) & (values >= 0) & (values < count)
    return values.astype(int) if is_class.all() else None
