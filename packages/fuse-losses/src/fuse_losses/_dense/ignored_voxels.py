"""Voxels that do not count, by `ignore_index` or a mask, and voxels that count more or less, by weights."""

import torch
from torch import Tensor

from .._fused.device_rules import accumulation_dtype, values_may_be_read
from .options import DenseSettings


def valid_voxels(
    target: Tensor, ignore_index: int | None, num_classes: int, *, per_class: bool, single: bool = False
) -> Tensor | None:
    """Which voxels `ignore_index` leaves, bool `[B, *spatial]`; None if there is nothing to ignore.

    With `single`, an entry of a target `[B, C, *spatial]` that holds `ignore_index` leaves the others of its voxel in:
    the result is `[B, C, *spatial]`.
    """
    if ignore_index is None or not can_hold(target.dtype, ignore_index):
        return None
    if not per_class:
        return target != ignore_index
    if 0 <= ignore_index < num_classes:
        return target[:, ignore_index] != 1
    return target != ignore_index if single and target.shape[1] > 1 else (target != ignore_index).all(1)


def can_hold(dtype: torch.dtype, value: int) -> bool:
    """Whether a tensor can hold this integer. If not, comparing them would wrap it: 156 is -100 as uint8."""
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        return True
    limits = torch.iinfo(dtype)
    return limits.min <= value <= limits.max


def read_mask(loss: str, mask: Tensor, classes: int, samples: int, spatial: torch.Size, validate: bool) -> Tensor:
    """The mask as bool `[B, *spatial]` or, one for each class, `[B, C, *spatial]`."""
    channels = mask.shape[1:2] if mask.ndim == len(spatial) + 2 else torch.Size()
    if channels == (1,):
        mask = mask.squeeze(1)
    per_class = channels == (classes,) and classes > 1
    if mask.shape[2 if per_class else 1 :] != spatial or mask.ndim == 0 or mask.shape[0] not in (1, samples):
        raise ValueError(
            f"{loss} takes a mask [{samples}, *spatial] or [1, *spatial], perhaps with a channel axis of 1 or"
            f" {classes}, of the target's spatial size {tuple(spatial)}, got shape {tuple(mask.shape)}."
        )
    if mask.dtype != torch.bool:
        if mask.numel() and values_may_be_read(mask, validate) and not bool(((mask == 0) | (mask == 1)).all()):
            wrong = mask[~((mask == 0) | (mask == 1))].flatten()[0]
            raise ValueError(
                f"{loss} takes a mask of 0 and 1, or bool, got {float(wrong):g}. For a factor of each voxel use"
                " voxel_weights."
            )
        mask = mask != 0
    return mask.expand(samples, *mask.shape[1:])


def both(a: Tensor, b: Tensor) -> Tensor:
    """Where both count; `[B, *spatial]` and `[B, C, *spatial]` become the latter."""
    if a.ndim < b.ndim:
        a = a[:, None]
    elif b.ndim < a.ndim:
        b = b[:, None]
    return a & b


def read_voxel_weights(logits: Tensor, spatial: torch.Size, settings: DenseSettings) -> Tensor | None:
    """The weights of the voxels in the target's size, `[B, *spatial]`."""
    weights = settings.voxel_weights
    if weights is None:
        return None
    owner = settings.owner
    if not isinstance(weights, Tensor):
        raise TypeError(f"{owner} takes a tensor as voxel_weights, got {type(weights).__name__}.")
    if weights.ndim == len(spatial) + 2 and weights.shape[1] == 1:
        weights = weights.squeeze(1)
    if tuple(weights.shape) != (len(logits), *spatial):
        raise ValueError(
            f"{owner} takes voxel_weights [B, *spatial] of the target's size, {(len(logits), *spatial)}, got shape"
            f" {tuple(weights.shape)}."
        )
    if weights.requires_grad:
        raise TypeError(f"{owner} gives no gradient to voxel_weights, but they require one. Call .detach() on them.")
    weights = weights.to(accumulation_dtype(logits.dtype))
    if weights.numel() and values_may_be_read(weights, settings.validate):
        low, high = torch.aminmax(weights)
        if not bool((low >= 0) & (high < torch.inf)):  # NaN is neither
            raise ValueError(f"{owner} takes finite voxel_weights of at least 0, got values from {low:g} to {high:g}.")
    return weights
