"""The quality of predicted classes, computed from `predictions.csv` alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..predictions.compared_keys import Task
from ..predictions.pixel_counts import VOID
from .charts import confusion_table, reliability_chart
from .html_parts import TaskSections, note, number, table
from .prediction_columns import PredictionColumns, names_or_numbers

BINS = 15
MOST_CLASSES = 100  # in a matrix; that of 1,000 classes makes a page of 80 MB
MOST_MISTAKES = 50


@dataclass(frozen=True)
class ClassPredictions:
    """Predicted probabilities and true classes.

    Attributes:
        probabilities: shape [samples, classes].
        target: the true class of each sample, shape [samples].
    """

    probabilities: np.ndarray
    target: np.ndarray

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


def read_class_predictions(columns: PredictionColumns, task: Task, classes: int = 0) -> ClassPredictions | None:
    """Probabilities and true classes, without the samples whose class is unknown.

    An unknown class is empty, negative, or 255 if there are fewer classes. Scores below `model.logits` become
    probabilities by a softmax. A predicted class, a whole number below 100, gets the probability 1.

    Args:
        columns: the predictions.
        task: the keys to compare.
        classes: the least number of classes, if classes are predicted.

    Returns:
        The predictions; None if the columns hold no probabilities of classes, or no classes.
    """
    scores, target = columns.numbers(task.pred), columns.numbers(task.target)
    if scores is None or target is None or target.shape[1] != 1:
        return None
    if scores.shape[1] < 2:
        if not (columns.is_whole(task.pred) and scores.size and scores.max() < MOST_CLASSES):
            return None
        known = target[(target < MOST_CLASSES) & (target == target.round())]
        scores = np.eye(int(max(classes, scores.max() + 1, *known + 1)))[scores[:, 0].astype(int)]
    if task.pred.startswith("model.logits."):
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    true = target[:, 0]
    known = np.flatnonzero((true >= 0) & ((true != VOID) | (scores.shape[1] > VOID)))  # false for NaN
    scores, true = scores[known], true[known]
    are_probabilities = (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-2)
    are_classes = (true == true.round()).all() and (true < scores.shape[1]).all()
    if not (len(known) and are_probabilities and are_classes):
        return None
    return ClassPredictions(scores, true.astype(int))


def mistakes_table(confusion: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent mistakes, in place of a matrix of too many classes."""
    wrong = confusion - np.diag(np.diag(confusion))
    most = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MISTAKES]
    pairs = [divmod(place, len(names)) for place in most.tolist() if wrong.flat[place]]
    rows = [(names[true], names[predicted], f"{wrong[true, predicted]:,}") for true, predicted in pairs]
    caption = f"The {MOST_MISTAKES} most frequent mistakes of {len(names):,} classes."
    return table(("true class", "predicted class", "samples"), rows, caption)


def class_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """Accuracy, confusion matrix, scores and calibration; None if the columns hold no classes."""
    found = read_class_predictions(columns, task, len(class_names))
    if found is None:
        return None
    counts = found.confusion()
    right, total = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(right, total)
    names = names_or_numbers(class_names, len(counts))
    rows = [
        (name, *map(number, scores), f"{samples:.0f}")
        for name, (*scores, samples) in zip(names, class_scores(counts), strict=True)
    ]
    numbers = [
        ("accuracy", f"{right / total:.4f}"),
        ("95 % interval", f"{low:.3f} to {high:.3f}"),
    ]
    header = ("class", "precision", "recall", "F1", "samples")
    sections = {
        "Confusion matrix": [
            note(columns.about(task, total)),
            confusion_table(counts, names, f"Confusion matrix of {task.name}")
            if len(counts) <= MOST_CLASSES
            else mistakes_table(counts, names),
        ],
        "Classes": [table(header, rows, f"The scores of each class of {task.name}.")],
    }
    if not np.isin(found.probabilities, (0, 1)).all():  # classes alone are not calibrated
        bins = found.calibration()
        error = calibration_error(*bins)
        numbers.append(("calibration error", f"{error:.4f}"))
        about = f"Expected calibration error {error:.4f}, from {len(bins[0])} bins of confidence."
        sections["Calibration"] = [note(about), reliability_chart(*bins)]
    return TaskSections(numbers, sections)
