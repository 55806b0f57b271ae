"""Focal loss, of which cross-entropy is the case gamma = 0."""

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .._dense.checks import check_number, check_numbers
from .._dense.class_weights import class_counts, numbers_on_device
from .._dense.inputs import DenseInputs, holds_indices, read_dense_inputs
from .._dense.options import DenseOptions, Numbers, dense_loss
from .._fused.blocks import accumulation_dtype, counting_dtype
from .._fused.focal_term import focal_term
from .._fused.one_pass import Wanted, class_probabilities, one_pass, zero_where_invalid
from .._fused.safe_division import divide_or_zero

Alpha = float | Numbers


class FocalOptions(DenseOptions, total=False):
    """The options of `focal_loss`, which explains them."""

    gamma: float
    alpha: Alpha | None


def check_focal(owner: str, options: dict[str, Any]) -> None:
    """Raise if `alpha` is above 1 in the sigmoid form, where negatives get 1 - alpha."""
    alpha = options.get("alpha")
    if alpha is None or options.get("activation") != "sigmoid":
        return
    if isinstance(alpha, float | int):
        check_number(owner, "alpha", alpha, at_most=1.0)
    else:
        check_numbers(owner, "alpha", alpha, options.get("validate", False), at_most=1.0)


@dense_loss(check_focal)
def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Alpha | None = None,
    mask: Tensor | None = None,
    **options: Unpack[DenseOptions],
) -> Tensor:
    r"""Focal loss: cross-entropy in which well-classified voxels count little.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5, with y the target and p the probabilities:

    - `activation="softmax"`: the loss of a voxel is $-\sum_c \alpha_c w_c\, y_c (1 - p_c)^\gamma \log p_c$, and under
      `"mean"` the sum over valid voxels is divided by $\sum w_c y_c$ over voxels and classes. With `gamma` 0 and no
      `alpha` this is `segmentation_cross_entropy`, and `torch.nn.functional.cross_entropy`, at every reduction.
    - `activation="sigmoid"`, each channel by itself: the loss of a voxel and channel is
      $-w_c [\alpha_c y_c (1 - p_c)^\gamma \log p_c + (1 - \alpha_c)(1 - y_c)\, p_c^\gamma \log (1 - p_c)]$, and under
      `"mean"` the sum is divided by that of $w_c$ over valid voxels and channels.
    - `activation="none"`: the first form on probabilities over the classes; the second for a single channel. Below the
      type's epsilon (1.2e-7) a probability counts as that, without a gradient.

    The value and the gradient are finite for all finite logits and every `gamma`.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        gamma: how strongly well-classified voxels are played down; at least 0.
        alpha: a factor, or one for each class. In the sigmoid form, at most 1: positives get alpha, negatives 1 -
            alpha. It does not change what `"mean"` divides by. None is no factor.
        mask: which voxels count, `[B, *spatial]` or `[B, 1, *spatial]`, bool or not zero.
        **options: see `DenseOptions`.

    Returns:
        A scalar; 0, connected to the graph, if no voxel is valid. With `reduction="none"` the losses of the voxels, 0
        where not valid: `[B, *spatial]`, or `[B, C, *spatial]` in the sigmoid form.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> focal_loss(logits, torch.tensor([0, 0]), gamma=2.0)
        tensor(0.8259)
    """
    return reduced_focal(read_dense_inputs(logits, target, mask, options), gamma, alpha)


def reduced_focal(inputs: DenseInputs, gamma: float, alpha: Alpha | None) -> Tensor:
    """The focal loss of what `read_dense_inputs` gave."""
    settings = inputs.settings
    dtype = accumulation_dtype(inputs.logits.dtype)
    factor = _alpha_of_classes(alpha, inputs)
    binary = settings.activation == "sigmoid" or inputs.logits.shape[1] == 1
    if binary:
        if isinstance(alpha, (int, float)):
            check_number(settings.owner, "alpha", alpha, at_most=1.0)
        losses = _binary_losses(inputs, gamma, factor)
    else:
        weights = inputs.class_weights
        if factor is not None:
            weights = factor if weights is None else factor * weights
        losses = _categorical_losses(inputs, gamma, weights)
    if settings.reduction == "none":
        return losses.reshape(*losses.shape[:-1], *inputs.spatial)
    total = losses.sum()
    return total if settings.reduction == "sum" else divide_or_zero(total, _divisor(inputs, binary).to(dtype))


def _categorical_losses(inputs: DenseInputs, gamma: float, factor: Tensor | None) -> Tensor:
    """The losses `[B, S]` of probabilities over the classes."""
    logits, target, valid = inputs.logits, inputs.target, inputs.valid
    activation = inputs.settings.activation
    if activation == "softmax" and holds_indices(inputs.target):
        return one_pass(logits, target, valid, Wanted(activation, gamma=gamma), factor).losses
    dtype = accumulation_dtype(logits.dtype)
    logits = zero_where_invalid(logits, valid)
    if activation == "softmax":
        log_probabilities = torch.log_softmax(logits, dim=1, dtype=dtype)
    else:
        log_probabilities = _safe_log(logits.to(dtype))
    terms = class_probabilities(target, valid, logits.shape[1], dtype) * focal_term(log_probabilities, gamma)
    return (terms if factor is None else terms * factor[:, None]).sum(1)


def _binary_losses(inputs: DenseInputs, gamma: float, alpha: Tensor | None) -> Tensor:
    """The losses `[B, C, S]` of channels that are probabilities by themselves."""
    dtype = accumulation_dtype(inputs.logits.dtype)
    logits = zero_where_invalid(inputs.logits, inputs.valid).to(dtype)
    positive = class_probabilities(inputs.target, inputs.valid, logits.shape[1], dtype)
    if inputs.settings.activation == "sigmoid":
        log_p, log_rest = logsigmoid(logits), logsigmoid(-logits)
    else:
        log_p, log_rest = _safe_log(logits), _safe_log(1 - logits)
    # exp(gamma * log(1 - p)) is (1 - p) ** gamma with a gradient that is finite for every gamma
    on_positive = -log_p if gamma == 0 else -log_p * torch.exp(gamma * log_rest)
    on_negative = -log_rest if gamma == 0 else -log_rest * torch.exp(gamma * log_p)
    if alpha is None:
        losses = positive * on_positive + (1 - positive) * on_negative
    else:
        alpha = alpha[:, None]
        losses = alpha * positive * on_positive + (1 - alpha) * (1 - positive) * on_negative
    if inputs.class_weights is not None:
        losses = losses * inputs.class_weights[:, None]
    return losses if inputs.valid is None else torch.where(inputs.valid[:, None], losses, 0.0)


def _safe_log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).eps, max=1.0).log()


def _divisor(inputs: DenseInputs, binary: bool) -> Tensor:
    """What a mean divides by: the sum of the weights that took part."""
    logits, target, valid, weights = inputs[:4]
    classes = logits.shape[1]
    if not binary and (weights is not None or not holds_indices(inputs.target)):
        counts = class_counts(target, valid, classes)
        return counts.sum() if weights is None else (counts * weights).sum()
    voxels = logits.shape[0] * logits.shape[2]
    count = torch.full((), voxels, dtype=counting_dtype(logits.device), device=logits.device)
    if valid is not None:
        count = valid.sum()
    if binary:
        return count * (classes if weights is None else weights.sum())
    return count


def _alpha_of_classes(alpha: Alpha | None, inputs: DenseInputs) -> Tensor | None:
    """Alpha as `[C]`."""
    classes, device = inputs.logits.shape[1], inputs.logits.device
    dtype = accumulation_dtype(inputs.logits.dtype)
    if alpha is None:
        return None
    if isinstance(alpha, (int, float)):
        return torch.full((classes,), float(alpha), dtype=dtype, device=device)
    factors = numbers_on_device(alpha, dtype, device)
    if len(factors) != classes:
        owner = inputs.settings.owner
        raise ValueError(f"{owner} got {len(factors)} values of alpha for a prediction of {classes} classes.")
    return factors
