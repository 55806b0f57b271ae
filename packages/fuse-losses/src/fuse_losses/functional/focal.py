"""Focal loss, of which cross-entropy is the case gamma = 0."""

from typing import Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .voxel_losses import Alpha, PosWeight, check_voxel_options, reduce_voxels, voxel_losses


class FocalOptions(DenseOptions, total=False):
    """The options of `focal_loss`, which explains them."""

    gamma: float
    alpha: Alpha | None
    label_smoothing: float
    pos_weight: PosWeight | None


@dense_loss(check_voxel_options)
def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Alpha | None = None,
    label_smoothing: float = 0.0,
    pos_weight: PosWeight | None = None,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""Focal loss: cross-entropy in which well-classified voxels count little.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5, with y the target and p the probabilities:

    - `activation="softmax"`: the loss of a voxel is $-\sum_c \alpha_c w_c\, y_c (1 - p_c)^\gamma \log p_c$, and under
      `"mean"` the sum over valid voxels is divided by $\sum w_c y_c$ over voxels and classes. With `gamma` 0 and no
      `alpha` this is `segmentation_cross_entropy`, and `torch.nn.functional.cross_entropy`, at every reduction.
    - `activation="sigmoid"`, each channel by itself: the loss of a voxel and channel is
      $-w_c [\alpha_c y_c (1 - p_c)^\gamma \log p_c + (1 - \alpha_c)(1 - y_c)\, p_c^\gamma \log (1 - p_c)]$, and under
      `"mean"` the sum is divided by that of $w_c$ over valid voxels and channels.
    - `activation="none"`: the first form on probabilities over the classes; the second for a single channel and for
      `regions`. Below the type's epsilon (1.2e-7) a probability counts as that, without a gradient.

    The value and the gradient are finite for all finite logits and every `gamma`. With soft targets and class weights,
    `"mean"` divides by $\sum w_c y_c$ here, and by the number of voxels in `torch.nn.functional.cross_entropy`.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        gamma: how strongly well-classified voxels are played down; at least 0.
        alpha: a factor, or one for each class. In the sigmoid form, at most 1: positives get alpha, negatives 1 -
            alpha. It does not change what `"mean"` divides by. None is no factor.
        label_smoothing: see `segmentation_cross_entropy`.
        pos_weight: see `segmentation_cross_entropy`.
        mask: which voxels count, bool or 0 and 1: `[B, *spatial]`, `[B, 1, *spatial]`, or for each class
            `[B, C, *spatial]`.
        **options: see `DenseOptions`.

    Returns:
        A scalar; 0, connected to the graph, if no voxel is valid. With `reduction="none"` the losses of the voxels, 0
        where not valid: `[B, *spatial]`, or `[B, C, *spatial]` in the sigmoid form.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> focal_loss(logits, torch.tensor([0, 0]), gamma=2.0)
        tensor(0.8259)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    return reduce_voxels(voxel_losses(inputs, gamma, alpha, label_smoothing, pos_weight), inputs)
