"""The average and the majority vote of several models' predictions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Holds = Literal["probabilities", "logits", "values"]
"""The kind of predictions: probabilities of classes, their logits, or values without classes, as in a regression."""

Average = Literal["probabilities", "logits"]
"""What is averaged: probabilities (an arithmetic mean of them), or logits (a normalised geometric mean of them)."""

HOLDS: tuple[str, ...] = get_args(Holds)
AVERAGES: tuple[str, ...] = get_args(Average)


def average_predictions(predictions: Tensor, holds: Holds, average: Average, classes_axis: int) -> Tensor:
    """The models' average, of the same kind as the predictions: probabilities, logits or values.

    Averaging probabilities is p = mean_i p_i. Averaging logits is p = softmax(mean_i z_i): the geometric mean of the
    p_i, normalised, because log p_i and z_i differ by a constant. Both work for both kinds of predictions: for
    probabilities z_i = log p_i, and for logits the average of probabilities is returned as log p. So
    `softmax(average of logits)` always equals the average of the corresponding probabilities. Values are averaged as
    they are. Half precision is computed in float32.

    Args:
        predictions: of shape (models, ...).
        holds: their kind.
        average: what is averaged.
        classes_axis: the axis of the classes in one model's predictions.

    Returns:
        A tensor of shape (...) and of the predictions' dtype. In a geometric mean, probabilities are clamped to the
        smallest normal float; without it, classes that each have a zero from some model would give 0/0.

    Example:
        >>> probabilities = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])  # two models, one sample, two classes
        >>> average_predictions(probabilities, "probabilities", "probabilities", classes_axis=1)
        tensor([[0.7000, 0.3000]])
        >>> average_predictions(probabilities, "probabilities", "logits", classes_axis=1)  # 3 to 1: sqrt(.45 / .05)
        tensor([[0.7500, 0.2500]])
    """
    axis = classes_axis if classes_axis < 0 else classes_axis + 1
    accurate = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    if holds == "values" or holds == average:
        result = accurate.mean(0)
    elif holds == "logits":
        result = accurate.log_softmax(axis).logsumexp(0) - math.log(len(predictions))
    else:
        logits = accurate.clamp_min(torch.finfo(accurate.dtype).tiny).log()
        result = logits.mean(0).softmax(classes_axis)
    return result.to(predictions.dtype)


def majority_vote(predictions: Tensor, average: Tensor, classes_axis: int) -> Tensor:
    """The class that most models score highest, at each location.

    If classes have equally many votes, the one with the higher average wins; if these are equal too, the one with the
    lower index.

    Args:
        predictions: of shape (models, ...).
        average: the models' average, of shape (...).
        classes_axis: the axis of the classes in one model's predictions.

    Returns:
        Class indices (int64) of shape (...) without the classes axis.

    Example:
        >>> predictions = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])  # three models, one sample
        >>> majority_vote(predictions, predictions.mean(0), classes_axis=1)  # though the average is (0.4, 0.6)
        tensor([0])
    """
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
