"""Cross-entropy of the voxels that are predicted worst."""

import math
from typing import Unpack

import torch
from torch import Tensor

from .._dense.inputs import DenseInputs, holds_indices, read_dense_inputs
from .._dense.loss_decorator import dense_loss
from .._dense.options import DenseOptions, TensorOptions
from .._fused.device_rules import counting_dtype, values_may_be_read
from .._fused.probabilities import by_class, class_probabilities
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
    largest, divisor = _largest(losses, inputs, k)
    return reduce_voxels(largest, inputs, divisor)


def _largest(losses: Tensor, inputs: DenseInputs, share: float) -> tuple[Tensor, Tensor]:
    """The losses of the share of the valid voxels with the largest ones, 0 elsewhere, and the sum of their weights."""
    flat, valid = losses.flatten(), inputs.valid
    if valid is not None:
        valid = by_class(valid).expand_as(losses) if losses.ndim == 3 else by_class(valid).any(1)
        ranked = torch.where(valid.reshape(-1), flat.detach(), -torch.inf)
    else:
        ranked = flat.detach()
    number, known = len(flat), True
    if valid is not None:
        known = values_may_be_read(valid, inputs.settings.validate)
        number = int(valid.sum()) if known else number
    # Less by a rounding error, as 0.07 times 100 is 7.000000000000001.
    values, index = _topk(ranked, math.ceil(share * number - 1e-6), ordered=not known)
    weights = _weights_of_voxels(losses, inputs)
    weights = torch.ones_like(values) if weights is None else weights.reshape(-1)[index]
    taken = values != -torch.inf  # NaN is taken: it must reach the loss
    if valid is not None and not known:
        count = (share * valid.sum(dtype=counting_dtype(values.device)) - 1e-6).ceil()
        taken &= torch.arange(len(values), device=values.device) < count
    weights = torch.where(taken, weights, 0.0)
    if inputs.settings.reduction != "none":
        return torch.where(taken, flat[index], 0.0), weights.sum()
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, index, taken)
    return torch.where(chosen, flat, 0.0).view_as(losses), weights.sum()


def _topk(values: Tensor, k: int, ordered: bool) -> tuple[Tensor, Tensor]:
    """The k largest values and their places."""
    few = values_may_be_read(values, validate=False) and len(values) > 2**14 and 4 * k < len(values)
    if few and not ordered:
        # A guess from a sample leaves out most values, which takes a fraction of the time that choosing among all does.
        sample = values[::17]
        guess = sample.topk(min(len(sample), k // 15 + 32), sorted=False).values.amin()
        places = (~(values < guess)).nonzero().squeeze(1)  # NaN too
        if len(places) >= k:
            largest, index = values[places].topk(k, sorted=False)
            return largest, places[index]
    return values.topk(k, sorted=ordered)


def _weights_of_voxels(losses: Tensor, inputs: DenseInputs) -> Tensor | None:
    """The weights in the losses of the voxels, of the losses' shape; None for 1."""
    weights, voxel_weights = inputs.class_weights, inputs.voxel_weights
    by_truth = losses.ndim == 2 and not (weights is None and holds_indices(inputs.target))
    if weights is None and voxel_weights is None and not by_truth:
        return None
    if by_truth:
        result = class_probabilities(inputs.target, inputs.valid, inputs.logits.shape[1], losses.dtype)
        result = (result if weights is None else result * weights[:, None]).sum(1)
    else:
        result = torch.ones_like(losses) if weights is None else weights[:, None].to(losses.dtype).expand_as(losses)
    if voxel_weights is not None:
        result = result * (voxel_weights if losses.ndim == 2 else voxel_weights[:, None])
    return result
