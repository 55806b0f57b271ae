"""The average and the majority vote of several models' predictions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Holds = Literal["probabilities", "logits", "values"]
"""What predictions are: probabilities of classes, their logits, or values without classes, as in regression."""

Average = Literal["probabilities", "logits"]
"""What is averaged: probabilities (an arithmetic mean of them), or logits (a normalised geometric mean of them)."""

HOLDS: tuple[str, ...] = get_args(Holds)
AVERAGES: tuple[str, ...] = get_args(Average)


def average_predictions(predictions: Tensor, holds: Holds, average: Average, classes_axis: int) -> Tensor:
    """The models' average, of the same kind as the predictions: probabilities, logits or values.

    Averaging probabilities is p = mean_i p_i; averaging logits is p = softmax(mean_i z_i), which is the geometric mean
    of the p_i, normalised, because log p_i is z_i but for a constant. Both can be had from either kind: with p_i at
    hand, z_i is taken to be log p_i; with z_i at hand, the logits of a mean of probabilities are its logarithm. So
    `softmax(average of logits)` is the average of the probabilities, whichever average is asked for.

    Values are averaged as they are. Half precision is computed in float32.

    Args:
        predictions: of shape (models, ...).
        holds: what they are.
        average: what is averaged.
        classes_axis: the axis of the classes, counted in one model's predictions.

    Returns:
        A tensor of shape (...) and of the predictions' dtype. A probability below the smallest normal float counts
        as that in a geometric mean, which would otherwise be 0/0 where each class has a zero from some model.

    Example:
        >>> probabilities = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])  # two models, one sample, two classes
        >>> average_predictions(probabilities, "probabilities", "probabilities", classes_axis=1)
        tensor([[0.7000, 0.3000]])
        >>> average_predictions(
        ...     probabilities, "probabilities", "logits", classes_axis=1
        ... )  # 3 to 1: sqrt(0.9*0.5/0.1/0.5)
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
    """The class that most models score highest, at each location by itself.

    Of classes with equally many votes the one with the higher average is taken, and of those with equal averages the
    one with the lower index.

    Args:
        predictions: of shape (models, ...), with the classes somewhere in `...`.
        average: of shape (...), the models' average.
        classes_axis: the axis of the classes, counted in one model's predictions.

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
    # NaN counts as the lowest average: it is equal to nothing, not even to itself
    among_winners = average.masked_fill(~winners | average.isnan(), -torch.inf)
    best = winners & (among_winners == among_winners.amax(classes_axis, keepdim=True))
    return best.to(torch.uint8).argmax(classes_axis)  # the first of equal maxima; argmax does not take booleans
