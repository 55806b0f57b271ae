"""Cross-entropy of the voxels that are predicted worst."""

from typing import Unpack

from torch import Tensor

from .._dense.inputs import read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .voxel_losses import PosWeight, check_voxel_options, reduce_voxels, voxel_losses


class TopKOptions(DenseOptions, total=False):
    """The options of `top_k_cross_entropy`, which explains them."""

    k: float
    label_smoothing: float
    pos_weight: PosWeight | None


def check_top_k(owner: str, options: dict[str, object]) -> None:
    """Raise unless `k` is a share."""
    check_voxel_options(owner, options)
    k = options.get("k", 0.1)
    if not (isinstance(k, (int, float)) and 0 < k <= 1):
        raise ValueError(f"{owner}(k=) is a share of the voxels, above 0 and at most 1, got {k!r}.")


@dense_loss(check_top_k)
def top_k_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    k: float = 0.1,
    label_smoothing: float = 0.0,
    pos_weight: PosWeight | None = None,
    mask: Tensor | None = None,
    **options: Unpack[TensorOptions],
) -> Tensor:
    r"""The cross-entropy of the share `k` of the batch's valid voxels that have the largest one.

    Wu et al. 2016, "Bridging category-level and instance-level semantic image segmentation", section 3.2 (online hard
    pixel mining). Under `"mean"` the sum over these voxels is divided by the sum of their weights. With `k` 1 it is
    `segmentation_cross_entropy`.

    Args:
        logits: `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`.
        target: class indices or probabilities; see `DenseOptions`.
        k: the share of the valid voxels, above 0 and at most 1; rounded up to whole voxels.
        label_smoothing: see `segmentation_cross_entropy`.
        pos_weight: see `segmentation_cross_entropy`.
        mask: see `dice_loss`.
        **options: see `DenseOptions`. With `across_processes` each process chooses among its own voxels.

    Returns:
        As `segmentation_cross_entropy`; under `"none"` 0 for the voxels that are not among the worst.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that do not fit, or a value out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> top_k_cross_entropy(logits, torch.tensor([[0, 0, 1]]), k=1 / 3)
        tensor(2.1269)
    """
    inputs = read_dense_inputs(logits, target, mask, options)
    losses = voxel_losses(inputs, label_smoothing=label_smoothing, pos_weight=pos_weight)
    return reduce_voxels(losses, inputs, top_k=k)
