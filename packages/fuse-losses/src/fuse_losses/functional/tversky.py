"""Tversky loss."""

from typing import Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .._fused.safe_division import divide_or_zero, finite_power
from .overlap import Empty, fill_absent, overlap_sums, reduce_classes


class TverskyOptions(DenseOptions, total=False):
    """The options of `tversky_loss`, which explains them."""

    alpha: float
    beta: float
    gamma: float
    smooth_numerator: float
    smooth_denominator: float
    per_sample: bool
    empty: Empty


@dense_loss()
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
    **options: Unpack[TensorOptions],
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
        beta: the price of false negatives; at least 0. Above `alpha`, it favors sensitivity.
        gamma: the exponent; at least 0. Below 1, nearly perfect classes count more.
        smooth_numerator: $s_n$.
        smooth_denominator: $s_d$.
        per_sample: see `dice_loss`.
        empty: see `dice_loss`.
        mask: which voxels count, bool or 0 and 1: `[B, *spatial]`, `[B, 1, *spatial]`, or for each class
            `[B, C, *spatial]`.
        **options: see `DenseOptions`.

    Returns:
        As `dice_loss`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, 9.0, 9.0]]])
        >>> tversky_loss(logits, torch.tensor([[0, 1, 1, 1]]), alpha=0.3, beta=0.7, ignore_classes=[0])
        tensor(0.2593)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    sums = overlap_sums(inputs, per_sample)
    overlap, predicted, present, _ = sums
    # TP + alpha FP + beta FN, doubled; in this order it is Dice's denominator to the bit.
    denominator = 2 * alpha * predicted + 2 * beta * present + 2 * (1 - alpha - beta) * overlap
    index = divide_or_zero(2 * overlap + smooth_numerator, denominator + smooth_denominator)
    index, counted = fill_absent(index, sums, empty)
    return reduce_classes(finite_power(1 - index, gamma), counted, inputs, per_sample)
