"""Prediction, target and mask of a dense loss in the one form that the formulas work on."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .._fused.block_passes import Results
from .._fused.device_rules import accumulation_dtype, values_may_be_read
from .._fused.probabilities import zero_where_invalid
from .class_weights import balanced, class_counts, numbers_on_device
from .ignored_voxels import both, read_mask, read_voxel_weights, valid_voxels
from .options import DenseSettings, TensorOptions
from .partial_labels import background_target, merge_into_background, read_annotated
from .regions import check_region_indices, region_target
from .resize_target import mean_pool, resize_nearest, resize_pooled
from .sum_over_processes import sum_over_processes

ROUNDING = 1e-2
"""How far predicted probabilities may be out of range, as averages and interpolations of half precision are."""


class DenseInputs(NamedTuple):
    """What a dense loss is computed from. S is the number of voxels of a sample, 1 for a classification."""

    logits: Tensor
    """`[B, C, S]`."""
    target: Tensor
    """Class indices `[B, S]`, which may hold anything where not valid, or probabilities `[B, C, S]`."""
    valid: Tensor | None
    """Which voxels count, bool `[B, S]`, or with probabilities as target `[B, C, S]`; None is all."""
    class_weights: Tensor | None
    """`[C]`, 0 for the ignored classes; None is 1 for all."""
    spatial: torch.Size
    """The spatial size that S stands for."""
    settings: DenseSettings
    voxel_weights: Tensor | None = None
    """`[B, S]`; None is 1 for all."""
    annotated: Tensor | None = None
    """Which classes count in each sample, bool `[B, C]`; None is all."""
    results: Results | None = None
    """What a compound loss has computed in one pass for several terms."""

    def changed(self, **others: Any) -> "DenseInputs":
        """These inputs with other values of some fields; the compiler of torch 2.6 cannot trace `_replace`."""
        return DenseInputs(**{name: others.get(name, getattr(self, name)) for name in DenseInputs._fields})

    def record(self, name: str, value: Any) -> None:
        """Write down something that the loss as a class makes public, such as how much it counted."""
        if self.settings.record is not None:
            self.settings.record[name] = value.detach() if isinstance(value, Tensor) else value


def read_dense_inputs(logits: Tensor, target: Tensor, mask: Tensor | None, options: TensorOptions) -> DenseInputs:
    """Check the tensors, resize the target, and find the valid voxels and the weights of the classes.

    Args:
        logits: `[B, C, *spatial]`, up to three spatial axes.
        target: `[B, *spatial]`, `[B, 1, *spatial]` or `[B, C, *spatial]`; see `DenseOptions`.
        mask: bool or 0 and 1, `[B, *spatial]`, `[B, 1, *spatial]` or `[B, C, *spatial]` with the target's spatial size;
            B may be 1.
        options: as the decorator `dense_loss` hands them on, checked.

    Raises:
        TypeError: what is no tensor, logits that are not floating-point, class indices that are, or a target that wants
            a gradient.
        ValueError: shapes that do not fit, a class or a probability out of range, or no class left.
    """
    # The decorator adds the owner. No `cast` here, for which the compiler copies the dictionary in `record`.
    settings = DenseSettings(**options)  # type: ignore[arg-type, call-arg]
    if settings.shared is not None:
        return cast(DenseInputs, settings.shared)
    loss, regions = settings.owner, settings.regions
    _check_tensors(loss, prediction=logits, target=target, mask=mask)
    if target.dtype in (torch.uint16, torch.uint32, torch.uint64):
        target = target.long()  # which torch has few operations for
    classes = _check_shapes(loss, logits, target, settings)
    spatial = logits.shape[2:]
    old_spatial = target.shape[target.ndim - len(spatial) :]
    per_class = (classes == 1 or (target.ndim == logits.ndim and target.shape[1] == classes)) and regions is None
    if per_class and target.ndim < logits.ndim:
        target = target.unsqueeze(1)
    elif not per_class and target.ndim == logits.ndim:
        target = target.squeeze(1)

    leaves_out = settings.ignore_index is not None or mask is not None
    if leaves_out and not per_class and regions is None and values_may_be_read(target, settings.validate):
        target = _narrow(target, classes)
    valid = None
    if settings.ignore_index is not None:
        known = classes if classes > 1 and regions is None else 0
        single = per_class and settings.activation != "softmax"
        valid = valid_voxels(target, settings.ignore_index, known, per_class=per_class, single=single)
    if regions is not None:
        indices, target, per_class = target, region_target(target, valid, regions), True
    if mask is not None:
        mask = read_mask(loss, mask, classes, logits.shape[0], old_spatial, settings.validate)
        valid = mask if valid is None else both(valid, mask)
    if regions is not None:
        check_region_indices(loss, indices, valid, settings.validate)
    if valid is not None and valid.ndim == logits.ndim and not per_class:
        target, per_class = _one_hot(target, classes), True
    _check_target(loss, target, valid, classes, per_class, settings.validate)
    voxel_weights = None
    if settings.voxel_weights is not None:
        voxel_weights = read_voxel_weights(logits, old_spatial, settings)

    if old_spatial != spatial:
        if settings.resize_mode == "nearest":
            target = resize_nearest(target, spatial)
            valid = None if valid is None else resize_nearest(valid, spatial)
            voxel_weights = None if voxel_weights is None else resize_nearest(voxel_weights, spatial)
        elif settings.resize_mode is not None:
            dtype = accumulation_dtype(logits.dtype)
            target, valid = resize_pooled(target, valid, spatial, settings.resize_mode, classes, dtype)
            voxel_weights = None if voxel_weights is None else mean_pool(voxel_weights[:, None], spatial).squeeze(1)
            per_class = True
    flat_logits, flat_target = _flatten(logits, 2), _flatten(target, 2 if per_class else 1)
    flat_valid = None if valid is None else _flatten(valid, 2 if valid.ndim == logits.ndim else 1)
    flat_weights = None if voxel_weights is None else _flatten(voxel_weights, 1)
    annotated = None
    if settings.annotated is not None:
        annotated = read_annotated(flat_logits, settings)
        if settings.activation == "softmax" and annotated is not None:
            flat_logits = merge_into_background(flat_logits, annotated)
            flat_target = background_target(flat_target, annotated)
        elif annotated is not None:
            flat_valid = annotated[:, :, None] if flat_valid is None else both(flat_valid, annotated[:, :, None])
            flat_valid = flat_valid.expand(flat_logits.shape)
            flat_target = flat_target if per_class else _one_hot(flat_target, classes)
    elif settings.merge_unannotated:
        raise ValueError(f"{loss} got merge_unannotated=True without annotated, which says what to merge.")
    if settings.activation == "softmax" and flat_valid is not None and flat_valid.ndim == 3:
        flat_logits = zero_where_invalid(flat_logits, flat_valid.any(1))
    if settings.activation == "none":
        _check_prediction(loss, flat_logits.detach(), flat_valid, settings.validate)
    weights = class_weights_of(flat_logits, flat_target, flat_valid, settings)
    return DenseInputs(flat_logits, flat_target, flat_valid, weights, spatial, settings, flat_weights, annotated)


def _check_tensors(loss: str, **tensors: object) -> None:
    """Raise a TypeError unless all are tensors; the mask may be None."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor) and not (name == "mask" and value is None):
            fix = "" if value is None else " Convert it with torch.as_tensor."
            if isinstance(value, Mapping):  # as the models of torchvision return
                fix = f" Pass one of its values: {', '.join(map(repr, value))}."
            raise TypeError(f"{loss} takes a tensor as {name}, got {type(value).__name__}.{fix}")


def _check_shapes(loss: str, logits: Tensor, target: Tensor, settings: DenseSettings) -> int:
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


def _check_target(
    loss: str, target: Tensor, valid: Tensor | None, classes: int, per_class: bool, validate: bool
) -> None:
    """Raise if a valid voxel's class index or probability is out of range, where looking costs no synchronization."""
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


def _check_prediction(loss: str, prediction: Tensor, valid: Tensor | None, validate: bool) -> None:
    """Raise if a valid voxel of a prediction `[B, C, S]` is no probability, where looking costs no synchronization."""
    if prediction.numel() == 0 or not values_may_be_read(prediction, validate):
        return
    low, high = torch.aminmax(zero_where_invalid(prediction, valid))
    if bool((low < -ROUNDING) | (high > 1 + ROUNDING)):  # NaN is not: it comes of training, not of a wrong option
        raise ValueError(
            f"{loss} with activation='none' takes probabilities from 0 to 1, got values from {low:g} to {high:g}. Use"
            " activation='softmax' or 'sigmoid' for logits."
        )


def _narrow(target: Tensor, classes: int) -> Tensor:
    """Class indices in a smaller integer type if it holds them: the passes to come read less memory."""
    if target.dtype not in (torch.int32, torch.int64) or target.numel() == 0:
        return target
    low, high = map(int, torch.aminmax(target))
    for dtype in (torch.uint8, torch.int16):
        limits = torch.iinfo(dtype)
        if limits.min <= low and max(high, classes) <= limits.max:
            return target.to(dtype)
    return target


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """Class indices `[B, *spatial]` as bool `[B, C, *spatial]`."""
    index = torch.arange(classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    return target[:, None] == index


def holds_indices(target: Tensor) -> bool:
    """Whether a target in the form of `DenseInputs` holds class indices, not probabilities."""
    return target.ndim == 2


def _flatten(tensor: Tensor, from_axis: int) -> Tensor:
    return tensor.flatten(from_axis) if tensor.ndim > from_axis else tensor.unsqueeze(from_axis)


def class_weights_of(logits: Tensor, target: Tensor, valid: Tensor | None, settings: DenseSettings) -> Tensor | None:
    """The weights of the classes, `[C]`, with 0 for those ignored; None if all are 1."""
    given, ignored = settings.class_weights, settings.ignore_classes
    if given is None and not ignored:
        return None
    if given is not None and logits.shape[1] == 1:
        raise ValueError(
            f"{settings.owner} got class_weights for a single channel, where they change nothing. To weigh its"
            " positives use pos_weight, which cross-entropy and focal loss take."
        )
    loss, classes, dtype = settings.owner, logits.shape[1], accumulation_dtype(logits.dtype)
    if any(one >= classes for one in ignored):
        raise ValueError(
            f"{loss} got ignore_classes={list(ignored)}, but the prediction has classes 0 to {classes - 1}."
        )
    if len(set(ignored)) == classes:
        raise ValueError(
            f"{loss} has no class left: the prediction has {classes}, and all are ignored. Leave out"
            " include_background=False or ignore_classes."
        )
    if given is None:
        weights = torch.ones(classes, dtype=dtype, device=logits.device)
    elif isinstance(given, str):  # "ipw"
        counts = sum_over_processes(class_counts(target, valid, classes), settings.across_processes)
        weights = balanced(counts).to(dtype)
    else:
        weights = numbers_on_device(given, dtype, logits.device)
        if len(weights) != classes:
            raise ValueError(f"{loss} got {len(weights)} class_weights for a prediction of {classes} classes.")
        weights = weights.clone()
    for one in ignored:
        weights[one].zero_()  # assigning a number would copy it from the host, which waits for the device
    return weights
