"""The average and the majority vote of several models' predictions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Kind = Literal["probabilities", "logits", "labels", "label_logits", "values"]
"""The kind of predictions: probabilities of classes or their logits; independent probabilities of labels (sigmoid
scores) or their logits; or values, as in a regression."""

Average = Literal["probabilities", "logits"]
"""What is averaged: probabilities (an arithmetic mean of them), or logits (a normalized geometric mean of them)."""

KINDS: tuple[str, ...] = get_args(Kind)
AVERAGES: tuple[str, ...] = get_args(Average)


def average_predictions(
    predictions: Tensor, kind: Kind, average: Average, classes_axis: int, weights: Tensor | None = None
) -> Tensor:
    """The models' average, of the same kind as the predictions.

    Averaging probabilities is p = mean_i p_i. Averaging logits is p = softmax(mean_i z_i): the geometric mean of the
    p_i, normalized, because log p_i and z_i differ by a constant. Both work for both kinds of predictions: for
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
    accurate = _as_float32(predictions)
    tiny, eps = torch.finfo(accurate.dtype).tiny, torch.finfo(accurate.dtype).eps
    averages_logits = average == "logits"
    if kind == "values" or averages_logits == (kind in ("logits", "label_logits")):
        result = _mean(accurate, weights)
    elif kind == "logits":
        result = _log_mean_exp(accurate.log_softmax(axis), weights)
    elif kind == "label_logits":  # log p - log(1 - p), each from its own logsumexp, which does not cancel
        result = _log_mean_exp(logsigmoid(accurate), weights) - _log_mean_exp(logsigmoid(-accurate), weights)
    elif kind == "labels":
        result = _mean(accurate.clamp(tiny, 1 - eps / 2).logit(), weights).sigmoid()
    else:
        result = _mean(accurate.clamp_min(tiny).log(), weights).softmax(classes_axis)
    return result if accurate is predictions else result.to(predictions.dtype)


def _as_float32(predictions: Tensor) -> Tensor:
    """Half precision as float32. Others as they are: in a trace, a `to` that does nothing renames a tensor."""
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    return predictions if predictions.dtype == dtype else predictions.to(dtype)


def _mean(predictions: Tensor, weights: Tensor | None) -> Tensor:
    return predictions.mean(0) if weights is None else (_shares(weights, predictions) * predictions).sum(0)


def _log_mean_exp(log_values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return log_values.logsumexp(0) - math.log(len(log_values))
    return (log_values + _shares(weights, log_values).log()).logsumexp(0)


def _shares(weights: Tensor, like: Tensor) -> Tensor:
    """The weights divided by their sum, with the models' axis first."""
    weights = weights.to(like)
    return (weights / weights.sum()).reshape(-1, *[1] * (like.ndim - 1))


def standard_deviation(predictions: Tensor) -> Tensor:
    """sqrt(mean_i (x_i - mean x)^2) over the models, the first axis, in the predictions' dtype.

    `std` is several times slower on the CPU. It serves two cases: gradients, because its gradient is 0 where all models
    agree, and traces, which must be the same with and without gradients.
    """
    if predictions.requires_grad or torch._C._get_tracing_state() is not None:
        return predictions.std(0, correction=0)
    accurate = _as_float32(predictions)
    return (accurate - accurate.mean(0)).square().mean(0).sqrt().to(predictions.dtype)


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
        # integers, because ONNX Runtime has no `where` of booleans
        return torch.where(present == absent, (average > threshold).long(), (present > absent).long())
    # `max().indices` is `argmax()`, and on the CPU several times faster where the axis is not the last
    votes_of_models = predictions.max(classes_axis if classes_axis < 0 else classes_axis + 1).indices
    votes_of_models = votes_of_models.movedim(0, classes_axis)  # the models' axis in place of the classes'
    one = torch.ones((), dtype=torch.int32, device=average.device).expand(votes_of_models.shape)
    votes = torch.zeros(average.shape, dtype=torch.int32, device=average.device)
    votes = votes.scatter_add(classes_axis, votes_of_models, one)
    # NaN counts as the lowest average, because it is not even equal to itself
    lowest = torch.finfo(average.dtype).min
    average = average.nan_to_num(nan=lowest, posinf=torch.inf, neginf=lowest)
    has_fewer = votes < votes.amax(classes_axis, keepdim=True)
    return average.masked_fill(has_fewer, -torch.inf).max(classes_axis).indices  # the first of equal maxima
