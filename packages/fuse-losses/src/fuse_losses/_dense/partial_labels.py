"""Labels as they come: regions of classes, classes that were not annotated, weights of voxels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._fused.device_rules import accumulation_dtype, values_may_be_read
from .options import DenseSettings
from .resize_target import can_hold


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
    """Raise if a valid voxel of a map of classes is negative, where looking costs no synchronisation."""
    if target.numel() == 0 or not values_may_be_read(target, validate):
        return
    negative = target < 0 if valid is None else (target < 0) & (valid if valid.ndim == target.ndim else valid.any(1))
    if bool(negative.any()):
        raise ValueError(
            f"{owner} with regions takes class indices from 0, got {int(target[negative][0])}. Fix the target, or leave"
            " such voxels out with ignore_index or a mask."
        )


def merge_into_background(logits: Tensor, annotated: Tensor) -> Tensor:
    """Logits in which the classes that were not annotated are a part of the background.

    The background's probability becomes the sum of its own and theirs, and theirs become 0. Shi et al. 2021, "Marginal
    loss and exclusion loss for partially supervised multi-organ segmentation", eq. 3.

    Args:
        logits: `[B, C, S]`; class 0 is the background.
        annotated: bool `[B, C]`.
    """
    merged = ~annotated
    merged = torch.cat([torch.ones_like(merged[:, :1]), merged[:, 1:]], 1)[..., None]
    logits = logits.to(accumulation_dtype(logits.dtype))
    lowest = torch.finfo(logits.dtype).min / 4
    background = torch.logsumexp(torch.where(merged, logits, lowest), 1, keepdim=True)
    rest = torch.where(merged[:, 1:], lowest, logits[:, 1:])
    return torch.cat([background, rest], 1)


def background_target(target: Tensor, annotated: Tensor) -> Tensor:
    """A target in which the classes that were not annotated are background."""
    if target.ndim == 2:
        classes = annotated.shape[1]
        is_class = (target >= 0) & (target < classes)
        known = annotated.gather(1, torch.where(is_class, target, 0).long()) | ~is_class
        return torch.where(known, target, 0)
    merged = ~annotated
    merged = torch.cat([torch.zeros_like(merged[:, :1]), merged[:, 1:]], 1)[..., None]
    rest = torch.where(merged, 0, target)
    background = rest[:, :1] + torch.where(merged, target, 0).sum(1, keepdim=True).to(target.dtype)
    return torch.cat([background, rest[:, 1:]], 1)


def read_annotated(logits: Tensor, settings: DenseSettings) -> Tensor | None:
    """Which classes were annotated in each sample, bool `[B, C]`."""
    annotated = settings.annotated
    if annotated is None:
        return None
    owner, shape = settings.owner, tuple(logits.shape[:2])
    if not isinstance(annotated, Tensor) or tuple(annotated.shape) != shape:
        received = tuple(annotated.shape) if isinstance(annotated, Tensor) else type(annotated).__name__
        raise ValueError(f"{owner} takes annotated {list(shape)}, one bool for each sample and class, got {received}.")
    if settings.activation == "softmax" and not settings.merge_unannotated:
        raise ValueError(
            f"{owner} got annotated classes with a softmax, in which a class that was not annotated is taken for"
            " background. Use merge_unannotated=True, or activation='sigmoid'."
        )
    if annotated.dtype != torch.bool and values_may_be_read(annotated, settings.validate):
        wrong = annotated[(annotated != 0) & (annotated != 1)]
        if wrong.numel():
            raise ValueError(f"{owner} takes annotated of 0 and 1, or bool, got {float(wrong[0]):g}.")
    return annotated.bool()


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
