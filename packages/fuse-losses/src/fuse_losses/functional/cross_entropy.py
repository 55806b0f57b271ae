"""Cross-entropy for segmentation and classification."""

from typing import Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .voxel_losses import PosWeight, check_voxel_options, reduce_voxels, voxel_losses


class CrossEntropyOptions(DenseOptions, total=False):
    """The options of `segmentation_cross_entropy`, which explains them."""

    label_smoothing: float
    pos_weight: PosWeight | None


@dense_loss(check_voxel_options)
def segmentation_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    pos_weight: PosWeight | None = None,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""Cross-entropy, of segmentations and of classifications.

    With y the target and p the probabilities:

    - `activation="softmax"`: the loss of a voxel is $-\sum_c w_c\, y_c \log p_c$, and under `"mean"` the sum over valid
      voxels is divided by $\sum w_c y_c$ over voxels and classes: what `torch.nn.functional.cross_entropy` does with
      class indices, here with one-hot and soft targets too.
    - `activation="sigmoid"`: the binary cross-entropy of each channel by itself,
      $-w_c [y_c \log p_c + (1 - y_c) \log (1 - p_c)]$, and under `"mean"` the sum is divided by that of $w_c$ over
      valid voxels and channels.
    - `activation="none"`: the first form on probabilities over the classes; the second for a single channel and for
      `regions`. Below the type's epsilon (1.2e-7) a probability counts as that, without a gradient.

    It is `focal_loss` with `gamma` 0.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        label_smoothing: $\epsilon$, from 0 to 1: the target becomes $(1 - \epsilon) y + \epsilon / K$ with K the number
            of classes, or 2 in the sigmoid form (Szegedy et al. 2016, "Rethinking the inception architecture for
            computer vision", section 7). It does not change what `"mean"` divides by.
        pos_weight: a factor of the positives in the sigmoid form, as in `torch.nn.BCEWithLogitsLoss`: one number, one
            for each channel, or `"ipw"`, the batch's number of negatives for each positive.
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
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> segmentation_cross_entropy(logits, torch.tensor([[0, 0, 255]]), ignore_index=255)
        tensor(1.1269)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    losses = voxel_losses(inputs, label_smoothing=label_smoothing, pos_weight=pos_weight)
    return reduce_voxels(losses, inputs)
