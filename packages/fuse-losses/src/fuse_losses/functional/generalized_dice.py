"""Generalized Dice loss."""

from typing import Literal, Unpack

import torch
from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .._dense.sum_over_processes import sum_over_processes
from .._fused.safe_division import divide_or_zero
from .overlap import annotated_classes, overlap_sums

VolumeWeights = Literal["square", "simple", "uniform"]
EmptyClass = Literal["skip", "penalize"]


class GeneralizedDiceOptions(DenseOptions, total=False):
    """The options of `generalized_dice_loss`, which explains them."""

    volume_weights: VolumeWeights
    smooth_numerator: float
    smooth_denominator: float
    per_sample: bool
    empty: EmptyClass


@dense_loss()
def generalized_dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    volume_weights: VolumeWeights = "square",
    smooth_numerator: float = 0.0,
    smooth_denominator: float = 0.0,
    per_sample: bool = True,
    empty: EmptyClass = "skip",
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""Generalized Dice loss: one overlap for all classes, in which small ones weigh as much as large ones.

    For each sample, with p the probabilities, y the target, the inner sums over valid voxels and $u_c = w_c v_c$ the
    class weight times that of the class's volume $V_c = \sum y_c$:

    $$1 - \frac{2 \sum_c u_c \sum p_c y_c + s_n}{\sum_c u_c (\sum p_c + \sum y_c) + s_d}$$

    Sudre et al. 2017, "Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations",
    eq. in section 2.1, there without smoothing. The volume weights are scaled so that the largest is 1, which matters
    to the smoothing only.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        volume_weights: $v_c$ is `"square"` $1 / V_c^2$, `"simple"` $1 / V_c$ or `"uniform"` 1.
        smooth_numerator: $s_n$. Not needed for a finite loss.
        smooth_denominator: $s_d$. Not needed for a finite loss.
        per_sample: sum over the voxels of each sample; False sums over those of the whole batch.
        empty: the weight of a class absent from the target, for which the formula gives infinity: `"skip"`, 0, or
            `"penalize"`, that of the rarest class that is there, so that its false positives cost as much as those.
            Where no class is there at all, `"penalize"` gives the mean probability of the classes, as in `dice_loss`.
        mask: which voxels count, bool or 0 and 1: `[B, *spatial]`, `[B, 1, *spatial]`, or for each class
            `[B, C, *spatial]`.
        **options: see `DenseOptions`.

    Returns:
        A scalar; 0, connected to the graph, if nothing counts. Under `"mean"` the mean over the samples in which a
        class counts. With `reduction="none"` the losses of the samples `[B]`, or a scalar for whole-batch sums.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> logits = torch.tensor([[[9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, 9.0, 9.0]]])
        >>> generalized_dice_loss(logits, torch.tensor([[0, 1, 1, 1]]))
        tensor(0.3125)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    sums = overlap_sums(inputs, per_sample)
    weights = _volume_weights(sums.present, inputs.class_weights, volume_weights, empty)
    if inputs.annotated is not None:
        weights = weights * annotated_classes(inputs, per_sample)
    weights = torch.where(sums.voxels > 0, weights, 0.0)
    counted = (weights > 0).any(1)
    index = divide_or_zero(
        2 * (weights * sums.overlap).sum(1) + smooth_numerator,
        (weights * (sums.predicted + sums.present)).sum(1) + smooth_denominator,
    )
    if empty == "penalize":
        predicted = divide_or_zero((weights * sums.predicted).sum(1), (weights * sums.voxels).sum(1))
        index = torch.where((sums.present * weights).sum(1) > 0, index, 1 - predicted)
    losses = torch.where(counted, 1 - index, 0.0)
    if inputs.settings.reduction == "none":
        return losses if per_sample else losses.squeeze(0)
    across = inputs.settings.across_processes and per_sample  # sums over the batch are over the processes already
    total = sum_over_processes(losses.sum(), across)
    if inputs.settings.reduction == "sum":
        return total
    count = sum_over_processes(counted.sum(), across)
    inputs.record("counted", count)
    return divide_or_zero(total, count)


def _volume_weights(present: Tensor, class_weights: Tensor | None, kind: VolumeWeights, empty: EmptyClass) -> Tensor:
    """The weights of the classes `[B, C]`; the largest volume weight is 1."""
    counted = torch.ones_like(present) if class_weights is None else class_weights.expand_as(present)
    occurs = (present > 0) & (counted > 0)
    smallest = torch.where(occurs, present, torch.inf).amin(1, keepdim=True)
    # The volume of the smallest class over that of each; where none occurs, no class has a weight but by "penalize".
    ratio = torch.where(occurs, smallest, 1.0) / torch.where(occurs, present, 1.0)
    volume = {"square": ratio.square(), "simple": ratio, "uniform": torch.ones_like(ratio)}[kind]
    if empty == "skip":
        volume = torch.where(occurs, volume, 0.0)
    return volume * counted
