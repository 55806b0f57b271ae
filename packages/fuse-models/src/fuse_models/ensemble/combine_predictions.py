"""The average and the majority vote of several models' predictions."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Kind = Literal["probabilities", "logits", "labels", "label_logits", "values"]
"""The kind of predictions: probabilities of classes or their logits; independent probabilities of labels (sigmoid
scores) or their logits; or values, as in a regression."""

Average = Literal["probabilities", "logits"]
"""What is averaged: probabilities (an arithmetic mean of them), or logits (a normalised geometric mean of them)."""

KINDS: tuple[str, ...] = get_args(Kind)
AVERAGES: tuple[str, ...] = get_args(Average)


def average_predictions(
    predictions: Tensor, kind: Kind, average: Average, classes_axis: int, weights: Tensor | None = None
) -> Tensor:
    """The models' average, of the same kind as the predictions.

    Averaging probabilities is p = mean_i p_i. Averaging logits is p = softmax(mean_i z_i): the geometric mean of the
    p_i, normalised, because log p_i and z_i differ by a constant. Both work for both kinds of predictions: for
    probabilities z_i = log p_i, and for logits the average of probabilities is returned as log p. So
    `softmax(average of logits)` always equals the average of the corresponding probabilities.

    Labels are averaged one by one in the same way, with a sigmoid in place of the softmax. Values are averaged as they
    are. Half precision is computed in float32.

    Args:
        predictions: of shape (models, ...).
        kind: their kind.
        average: what is averaged.
        classes_axis: the axis of the classes in one model's predictions; not used for labels and values.
        weights: of shape (models,), above 0; None for equal weights.

    Returns:
        A tensor of shape (...) and of the predictions' dtype. In a geometric mean, probabilities are clamped to the
        smallest normal float; without it, classes that each have a zero from some model would give 0/0. Those of labels
        are clamped from above, too.

    Example:
        >>> probabilities = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])  # two models, one sample, two classes
        >>> average_predictions(probabilities, "probabilities", "probabilities", classes_axis=1)
        tensor([[0.7000, 0.3000]])
        >>> average_predictions(probabilities, "probabilities", "logits", classes_axis=1)  # 3 to 1: sqrt(.45 / .05)
        tensor([[0.7500, 0.2500]])
    """
    axis = classes_axis if classes_axis < 0 else classes_axis + 1
    accurate = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    if weights is None:
        weights = torch.ones(len(accurate))
    weights = weights.to(accurate).reshape(-1, *[1] * (accurate.ndim - 1))
    weights = weights / weights.sum()
    tiny, eps = torch.finfo(accurate.dtype).tiny, torch.finfo(accurate.dtype).eps
    averages_logits = average == "logits"
    if kind == "values" or averages_logits == (kind in ("logits", "label_logits")):
        result = (weights * accurate).sum(0)
    elif kind == "logits":
        result = (accurate.log_softmax(axis) + weights.log()).logsumexp(0)
    elif kind == "label_logits":  # log p - log(1 - p), each from its own logsumexp, which does not cancel
        log_weights = weights.log()
        result = (logsigmoid(accurate) + log_weights).logsumexp(0) - (logsigmoid(-accurate) + log_weights).logsumexp(0)
    elif kind == "labels":
        result = (weights * accurate.clamp(tiny, 1 - eps / 2).logit()).sum(0).sigmoid()
    else:
        result = (weights * accurate.clamp_min(tiny).log()).sum(0).softmax(classes_axis)
    return result.to(predictions.dtype)


def majority_vote(predictions: Tensor, average: Tensor, kind: Kind, classes_axis: int) -> Tensor:
    """The class that most models score highest, at each location; for labels, whether most models predict it.

    If classes have equally many votes, the one with the higher average wins; if these are equal too, the one with the
    lower index. A label is voted on as two classes, of which "absent" has the lower index.

    Args:
        predictions: of shape (models, ...).
        average: the models' average, of shape (...).
        kind: the predictions' kind; `"values"` cannot be voted on.
        classes_axis: the axis of the classes in one model's predictions; not used for labels.

    Returns:
        Class indices (int64) of shape (...) without the classes axis; for labels 0 or 1, of shape (...).

    Example:
        >>> predictions = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])  # three models, one sample
        >>> majority_vote(predictions, predictions.mean(0), "probabilities", classes_axis=1)  # the average is 0.4, 0.6
        tensor([0])
    """
    if kind in ("labels", "label_logits"):
        threshold = 0.5 if kind == "labels" else 0.0
        present, absent = (predictions > threshold).sum(0), (predictions <= threshold).sum(0)  # NaN is neither
        return torch.where(present == absent, average > threshold, present > absent).long()
    votes = torch.zeros(average.shape, dtype=torch.int32, device=average.device)
    classes = torch.arange(average.shape[classes_axis], device=average.device)
    classes = classes.reshape([-1 if axis == classes_axis % average.ndim else 1 for axis in range(average.ndim)])
    for prediction in predictions.unbind():  # one by one: a count for each class is as large as a prediction
        votes = votes + (prediction.argmax(classes_axis, keepdim=True) == classes)
    winners = votes == votes.amax(classes_axis, keepdim=True)
    # NaN counts as the lowest average, because it is not even equal to itself
    among_winners = average.masked_fill(~winners | average.isnan(), -torch.inf)
    best = winners & (among_winners == among_winners.amax(classes_axis, keepdim=True))
    return best.to(torch.uint8).argmax(classes_axis)  # the first of equal maxima; argmax does not take booleans
