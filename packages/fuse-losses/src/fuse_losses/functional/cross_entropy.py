"""Cross-entropy for segmentation and classification."""

from typing import Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.options import DenseOptions, dense_loss
from .focal import reduced_focal


@dense_loss()
def segmentation_cross_entropy(
    logits: Tensor, target: Tensor, *, mask: Tensor | None = None, **options: Unpack[DenseOptions]
) -> Tensor:
    r"""Cross-entropy, of segmentations and of classifications.

    With y the target and p the probabilities:

    - `activation="softmax"`: the loss of a voxel is $-\sum_c w_c\, y_c \log p_c$, and under `"mean"` the sum over valid
      voxels is divided by $\sum w_c y_c$ over voxels and classes: what `torch.nn.functional.cross_entropy` does with
      class indices, here with one-hot and soft targets too.
    - `activation="sigmoid"`: the binary cross-entropy of each channel by itself,
      $-w_c [y_c \log p_c + (1 - y_c) \log (1 - p_c)]$, and under `"mean"` the sum is divided by that of $w_c$ over
      valid voxels and channels.
    - `activation="none"`: the first form on probabilities over the classes; the second for a single channel. Below the
      type's epsilon (1.2e-7) a probability counts as that, without a gradient.

    It is `focal_loss` with `gamma` 0.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        mask: which voxels count, `[B, *spatial]` or `[B, 1, *spatial]`, bool or not zero.
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
    return reduced_focal(read_dense_inputs(logits, target, mask, options), gamma=0.0, alpha=None)
