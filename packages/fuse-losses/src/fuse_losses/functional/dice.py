"""Dice loss."""

from typing import Unpack

import torch
from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .overlap import Empty, fill_absent, overlap_sums, reduce_classes


class DiceOptions(DenseOptions, total=False):
    """The options of `dice_loss`, which explains them."""

    smooth_numerator: float
    smooth_denominator: float
    squared: bool
    jaccard: bool
    log: bool
    per_sample: bool
    empty: Empty


@dense_loss()
def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smooth_numerator: float = 0.0,
    smooth_denominator: float = 0.0,
    squared: bool = False,
    jaccard: bool = False,
    log: bool = False,
    per_sample: bool = True,
    empty: Empty = "skip",
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""Dice loss: one minus the overlap of prediction and target.

    For each sample and class, with p the probabilities, y the target and the sums over valid voxels:

    $$1 - \frac{2 \sum p y + s_n}{\sum p + \sum y + s_d}$$

    The form is that of Drozdzal et al. 2016, "The Importance of Skip Connections in Biomedical Image Segmentation", eq.
    1; `squared` sums $p^2$ and $y^2$ in the denominator (Milletari et al. 2016, "V-Net", eq. in section 3); `jaccard`
    takes $\sum p y$ off half of the denominator, doubled: $2 (\sum p + \sum y - \sum p y) + s_d$; `log` is minus the
    logarithm of the overlap, which is bounded below by the type's epsilon, instead of one minus it.

    If the target of a sample does not hold a class, its overlap with any prediction is 0. Its Dice then says nothing
    about the prediction. `empty` says what to do with such a class. With `per_sample=False` this is decided for the
    whole batch, not for each sample:

    - `"skip"`, the default: the class is left out; the mean is over the other classes. A false positive of an absent
      class then costs only what it takes from the others. To penalize it, add cross-entropy, or use `"penalize"`.
    - `"zero"`: the class has loss 0 and is counted in the mean, so the mean is lower.
    - `"penalize"`: the loss of the class is the mean probability that the model predicts for it, $\sum p / N$ over the
      N valid voxels (of squares with `squared`). Its gradient is the same at every voxel. A smoothed Dice,
      $1 - s / (\sum p + s)$, has a gradient close to 0 once $\sum p$ is well above s.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        smooth_numerator: $s_n$. Not needed for a finite loss.
        smooth_denominator: $s_d$. Not needed for a finite loss.
        squared: squares in the denominator.
        jaccard: the Jaccard index (intersection over union) in place of Dice.
        log: minus the logarithm of the overlap.
        per_sample: sum over the voxels of each sample; False sums over those of the whole batch, which makes classes
            that few samples hold less noisy.
        empty: what to do with a class that the target does not hold; see above. A class absent from the whole batch has
            weight 0 under `class_weights="ipw"`, whatever is said here.
        mask: which voxels count, bool or 0 and 1: `[B, *spatial]`, `[B, 1, *spatial]`, or for each class
            `[B, C, *spatial]`.
        **options: see `DenseOptions`.

    Returns:
        A scalar; 0, connected to the graph, if nothing counts. Under `"mean"` the weighted sum of the losses of all
        samples and classes that count, divided by the sum of their weights. With `reduction="none"` the weighted losses
        `[B, C]`, or `[C]` for whole-batch sums, 0 for those that do not count.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> logits = torch.tensor([[[9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, 9.0, 9.0]]])
        >>> dice_loss(logits, torch.tensor([[0, 1, 1, 1]]), include_background=False)
        tensor(0.2000)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    sums = overlap_sums(inputs, per_sample, squared)
    overlap, predicted, present, _ = sums
    denominator = predicted + torch.where(present == 0, 1.0, present)  # an absent class has no Dice, see fill_absent
    if jaccard:
        denominator = 2 * (denominator - overlap)
    index = (2 * overlap + smooth_numerator) / (denominator + smooth_denominator)
    index, counted = fill_absent(index, sums, empty)
    losses = -index.clamp(min=torch.finfo(index.dtype).eps).log() if log else 1 - index
    return reduce_classes(losses, counted, inputs, per_sample)
