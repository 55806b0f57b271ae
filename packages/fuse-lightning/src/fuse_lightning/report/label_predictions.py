"""The quality of predicted labels, each of which a sample has or not."""

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from ..predictions.compared_keys import Task
from .html_parts import TaskSections, note, number, table
from .prediction_columns import PredictionColumns, names_or_numbers

THRESHOLD = 0.5


def label_scores(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Precision, recall, F1, AUROC, and numbers of positive and of labeled samples, shape [labels, 6].

    A label is predicted above a probability of 0.5. Precision and recall are 0 where nothing is predicted or true. The
    AUROC is NaN without samples of both kinds.

    Args:
        probabilities: shape [samples, labels].
        target: 0, 1, or NaN for unknown, shape [samples, labels].
    """
    scores = []
    for own, true in zip(probabilities.T, target.T, strict=True):
        known = ~np.isnan(true)
        own, true = own[known], true[known] == 1
        predicted = own > THRESHOLD
        right = (predicted & true).sum()
        precision, recall = right / max(predicted.sum(), 1), right / max(true.sum(), 1)
        f1 = 2 * right / max(predicted.sum() + true.sum(), 1)
        has_both = true.any() and not true.all()
        area = float(binary_auroc(torch.from_numpy(own), torch.from_numpy(true).int())) if has_both else float("nan")
        scores.append((precision, recall, f1, area, true.sum(), len(true)))
    return np.array(scores, dtype=float)


def label_sections(columns: PredictionColumns, task: Task, class_names: Sequence[str]) -> TaskSections | None:
    """The scores of each label; None if the columns hold no probabilities of labels."""
    pair = columns.of_one_shape(task)
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
    rows = [
        (name, *map(number, own[:4]), f"{own[4]:,.0f}", f"{own[5]:,.0f}")
        for name, own in zip(names_or_numbers(class_names, len(scores), task), scores, strict=True)
    ]
    areas = scores[~np.isnan(scores[:, 3]), 3]
    mean = "mean " if len(scores) > 1 else ""
    numbers = [
        (f"{mean}AUROC", f"{areas.mean():.4f}" if len(areas) else "-"),
        (f"{mean}F1", f"{scores[:, 2].mean():.4f}"),
    ]
    samples = int(np.isfinite(target).any(axis=1).sum())
    header = ("label", "precision", "recall", "F1", "AUROC", "positive", "labeled")
    about = f"{columns.about(task, samples)} A label is predicted above a probability of {THRESHOLD}."
    return TaskSections(
        numbers, {"Labels": [note(about), table(header, rows, f"The scores of each label of {task.name}.")]}
    )
