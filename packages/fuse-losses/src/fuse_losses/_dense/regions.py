"""Targets whose channels are unions of classes, as in BraTS."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._fused.device_rules import values_may_be_read
from .ignored_voxels import can_hold


def region_target(target: Tensor, valid: Tensor | None, regions: Sequence[Sequence[int]]) -> Tensor:
    """The regions of a map of classes `[B, *spatial]` as bool `[B, R, *spatial]`, made without a one-hot map."""
    channels = []
    for region in regions:
        channel = torch.zeros_like(target, dtype=torch.bool)
        for one in region:
            if can_hold(target.dtype, one):
                channel |= target == one
        channels.append(channel)
    truth = torch.stack(channels, 1)
    return truth if valid is None else truth & valid[:, None]


def check_region_indices(owner: str, target: Tensor, valid: Tensor | None, validate: bool) -> None:
    """Raise if a valid voxel of a map of classes is negative, where looking costs no synchronization."""
    if target.numel() == 0 or not values_may_be_read(target, validate):
        return
    negative = target < 0 if valid is None else (target < 0) & (valid if valid.ndim == target.ndim else valid.any(1))
    if bool(negative.any()):
        raise ValueError(
            f"{owner} with regions takes class indices from 0, got {int(target[negative][0])}. Fix the target, or leave"
            " such voxels out with ignore_index or a mask."
        )
