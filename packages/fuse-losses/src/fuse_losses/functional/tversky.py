"""Tversky loss, and what it shares with Dice: an index of overlap for each class."""

from typing import Literal, NamedTuple, Unpack, get_args

import torch
from torch import Tensor

from .class_sums import ClassSums, class_sums
from .dense_inputs import DenseInputs, read_dense_inputs, voxel_counts
from .dense_options import DenseOptions, DenseSettings, check_bool, check_choice, check_number, dense_settings
from .safe_division import divide_or_zero, finite_power

Empty = Literal["skip", "zero", "penalize"]
_EMPTY: tuple[Empty, ...] = get_args(Empty)


class OverlapOptions(NamedTuple):
    """What Dice and Tversky have in common beside `DenseOptions`."""

    smooth_numerator: float
    smooth_denominator: float
    per_sample: bool
    empty: Empty


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth_numerator: float = 0.0,
    smooth_denominator: float = 0.0,
    per_sample: bool = True,
    empty: Empty = "skip",
    mask: Tensor | None = None,
    **options: Unpack[DenseOptions],
) -> Tensor:
    r"""Tversky loss: overlap with separate prices for false positives and false negatives, with an optional exponent.

    For each sample and class, with TP, FP and FN the sums over voxels of $p y$, $p (1 - y)$ and $(1 - p) y$:

    $$\left(1 - \frac{2 TP + s_n}{2 TP + 2 \alpha FP + 2 \beta FN + s_d}\right)^\gamma$$

    Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully convolutional deep networks", eq.
    2, there without smoothing. The factor 2 is that of Dice, so that `alpha = beta = 0.5` is `dice_loss` and
    `alpha = beta = 1` its Jaccard form whatever the smoothing. With `gamma` this is the focal Tversky loss (Abraham and
    Khan 2019, "A novel focal Tversky loss function", eq. 4), whose authors write the exponent as $1/\gamma$.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        alpha: the price of false positives; at least 0.
        beta: the price of false negatives; at least 0. Above `alpha`, it favours sensitivity.
        gamma: the exponent; at least 0. Below 1, nearly perfect classes count more.
        smooth_numerator: $s_n$.
        smooth_denominator: $s_d$.
        per_sample: see `dice_loss`.
        empty: see `dice_loss`.
        mask: which voxels count, `[B, *spatial]` or `[B, 1, *spatial]`, bool or not zero.
        **options: see `DenseOptions`.

    Returns:
        As `dice_loss`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> logits = torch.tensor([[[9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, 9.0, 9.0]]])
        >>> tversky_loss(logits, torch.tensor([[0, 1, 1, 1]]), alpha=0.3, beta=0.7, ignore_classes=[0])
        tensor(0.2593)
    """
    settings = dense_settings("tversky_loss", options)
    overlap = OverlapOptions(smooth_numerator, smooth_denominator, per_sample, empty)
    check_tversky("tversky_loss", alpha, beta, gamma)
    check_overlap("tversky_loss", overlap)
    inputs = read_dense_inputs("tversky_loss", logits, target, mask, settings)
    sums = class_sums(inputs.logits, inputs.target, inputs.valid, settings.activation)
    index, counted = tversky_index(sums, inputs, overlap, alpha, beta)
    return reduce_classes(finite_power(1 - index, gamma), counted, inputs.class_weights, settings, per_sample)


def check_tversky(loss: str, alpha: float, beta: float, gamma: float) -> None:
    """Raise unless the prices and the exponent are finite numbers of at least 0."""
    check_number(loss, "alpha", alpha)
    check_number(loss, "beta", beta)
    check_number(loss, "gamma", gamma)


def check_overlap(loss: str, options: OverlapOptions) -> None:
    """Raise unless the options have values that they take."""
    check_number(loss, "smooth_numerator", options.smooth_numerator)
    check_number(loss, "smooth_denominator", options.smooth_denominator)
    check_choice(loss, "empty", options.empty, _EMPTY)
    check_bool(loss, "per_sample", options.per_sample)


def tversky_index(
    sums: ClassSums, inputs: DenseInputs, options: OverlapOptions, alpha: float, beta: float
) -> tuple[Tensor, Tensor | None]:
    """The overlap of each class, 1 if perfect, and which classes count.

    Returns:
        `[B, C]`, or `[1, C]` for sums over the whole batch, and the same in bool, or None if all count.
    """
    voxels = voxel_counts(inputs, sums.present.dtype)
    if not options.per_sample:
        sums = ClassSums(*(one.sum(0, keepdim=True) for one in sums))
        voxels = voxels.sum(0, keepdim=True)
    overlap, predicted, present = sums
    false_positives, false_negatives = predicted - overlap, present - overlap
    index = divide_or_zero(
        2 * overlap + options.smooth_numerator,
        2 * (overlap + alpha * false_positives + beta * false_negatives) + options.smooth_denominator,
    )
    absent = present == 0
    if options.empty == "penalize":
        return torch.where(absent, 1 - divide_or_zero(predicted, voxels), index), None
    index = torch.where(absent, 1.0, index)
    return index, ~absent if options.empty == "skip" else None


def reduce_classes(
    losses: Tensor, counted: Tensor | None, class_weights: Tensor | None, settings: DenseSettings, per_sample: bool
) -> Tensor:
    """Weight and reduce the losses `[B, C]` of the classes; those that do not count are left out."""
    weights = torch.ones_like(losses) if class_weights is None else class_weights.expand_as(losses)
    if counted is not None:
        weights = torch.where(counted, weights, 0.0)
    weighted = losses * weights
    if settings.reduction == "none":
        return weighted if per_sample else weighted.squeeze(0)
    total = weighted.sum()
    return total if settings.reduction == "sum" else divide_or_zero(total, weights.sum())
