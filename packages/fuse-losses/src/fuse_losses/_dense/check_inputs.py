"""Checks of the tensors that a dense loss is given."""

import torch
from torch import Tensor

from .._fused.device_rules import values_may_be_read
from .._fused.probabilities import zero_where_invalid
from .options import DenseSettings

_ROUNDING = 1e-2
"""How far predicted probabilities may be out of range, as averages and interpolations of half precision are."""


def check_tensors(loss: str, **tensors: object) -> None:
    """Raise a TypeError unless all are tensors; the mask may be None."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor) and not (name == "mask" and value is None):
            fix = "" if value is None else " Convert it with torch.as_tensor."
            raise TypeError(f"{loss} takes a tensor as {name}, got {type(value).__name__}.{fix}")


def check_shapes(loss: str, logits: Tensor, target: Tensor, settings: DenseSettings) -> int:
    """Raise unless the shapes and types fit; returns the number of classes."""
    if not logits.is_floating_point():
        raise TypeError(f"{loss} takes a floating-point prediction, got {logits.dtype}.")
    if not 2 <= logits.ndim <= 5:
        raise ValueError(
            f"{loss} takes a prediction [B, C, *spatial] with 0 to 3 spatial axes, got shape {tuple(logits.shape)}."
        )
    classes, spatial = logits.shape[1], logits.shape[2:]
    if classes == 1 and settings.activation == "softmax":
        raise ValueError(
            f"{loss} got a prediction of one class, shape {tuple(logits.shape)}, whose softmax is always 1. Use"
            " activation='sigmoid'."
        )
    channel = target.shape[1:2] if target.ndim == logits.ndim else torch.Size()
    if settings.regions is not None:
        if len(settings.regions) != classes:
            raise ValueError(f"{loss} got {len(settings.regions)} regions for a prediction of {classes} channels.")
        if target.is_floating_point() or channel not in ((), (1,)):
            raise ValueError(
                f"{loss} with regions takes a target of class indices [B, *spatial] or [B, 1, *spatial], got"
                f" {target.dtype} of shape {tuple(target.shape)}."
            )
    if target.ndim not in (logits.ndim - 1, logits.ndim) or channel not in ((), (1,), (classes,)):
        raise ValueError(
            f"{loss} takes a target [B, *spatial], [B, 1, *spatial] or [B, {classes}, *spatial] for a prediction of"
            f" shape {tuple(logits.shape)}, got shape {tuple(target.shape)}."
        )
    if target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"{loss} takes as many targets as predictions, got shapes {tuple(target.shape)} and {tuple(logits.shape)}."
        )
    if settings.resize_mode is None and target.shape[target.ndim - len(spatial) :] != spatial:
        raise ValueError(
            f"{loss} got a target of shape {tuple(target.shape)} for a prediction of shape {tuple(logits.shape)}."
            " Resize one of them, or let the loss do it with resize_mode='nearest', 'maxpool' or 'area'."
        )
    if target.is_complex():
        raise TypeError(f"{loss} takes class indices or real probabilities as target, got {target.dtype}.")
    if channel != (classes,) and classes > 1 and target.is_floating_point():
        raise TypeError(f"{loss} takes class indices of an integer type, got {target.dtype}. Convert with .long().")
    if target.requires_grad:
        raise TypeError(f"{loss} gives no gradient to the target, but the target requires one. Call .detach() on it.")
    return classes


def check_target(
    loss: str, target: Tensor, valid: Tensor | None, classes: int, per_class: bool, validate: bool
) -> None:
    """Raise if a valid voxel's class index or probability is out of range, where looking costs no synchronisation."""
    highest = 1 if per_class else classes - 1
    if target.dtype == torch.bool or target.numel() == 0 or not values_may_be_read(target, validate):
        return
    if not target.is_floating_point():
        highest = min(highest, torch.iinfo(target.dtype).max)  # a comparison with more would wrap around
    if valid is not None:
        valid = valid.unsqueeze(1) if valid.ndim < target.ndim else valid
        target = torch.where(valid, target, 0) if target.is_floating_point() else target * valid
    low, high = torch.aminmax(target)
    if bool((low >= 0) & (high <= highest)):
        return
    wrong = ~((target >= 0) & (target <= highest))  # NaN is wrong too
    received = torch.unique(target[wrong])[:5]
    what = "probabilities from 0 to 1" if per_class else f"class indices from 0 to {highest}"
    values = ", ".join(f"{value:g}" for value in received)
    raise ValueError(
        f"{loss} takes {what}, got {values} at {int(wrong.sum())} voxels. Fix the target, or leave such voxels out with"
        " ignore_index or a mask."
    )


def check_prediction(loss: str, prediction: Tensor, valid: Tensor | None, validate: bool) -> None:
    """Raise if a valid voxel of a prediction `[B, C, S]` is no probability, where looking costs no synchronisation."""
    if prediction.numel() == 0 or not values_may_be_read(prediction, validate):
        return
    low, high = torch.aminmax(zero_where_invalid(prediction, valid))
    if bool((low < -_ROUNDING) | (high > 1 + _ROUNDING)):  # NaN is not: it comes of training, not of a wrong option
        raise ValueError(
            f"{loss} with activation='none' takes probabilities from 0 to 1, got values from {low:g} to {high:g}. Use"
            " activation='softmax' or 'sigmoid' for logits."
        )
