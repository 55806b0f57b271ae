"""Bring a segmentation's ground truth to the size of the prediction."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .ignored_voxels import can_hold, valid_voxels
from .option_checks import check_choice
from .options import RESIZE_MODES, ResizeMode

Pool = Callable[..., Tensor]
_MAX_POOL: dict[int, Pool] = {
    1: nn.functional.adaptive_max_pool1d,
    2: nn.functional.adaptive_max_pool2d,
    3: nn.functional.adaptive_max_pool3d,
}
_MEAN_POOL: dict[int, Pool] = {
    1: nn.functional.adaptive_avg_pool1d,
    2: nn.functional.adaptive_avg_pool2d,
    3: nn.functional.adaptive_avg_pool3d,
}


def resize_target(
    target: Tensor,
    size: Sequence[int],
    mode: ResizeMode,
    *,
    num_classes: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Resize a target up or down, without ever mixing class numbers.

    - `"nearest"`: each new voxel takes the value at its center (voxel $\lfloor (i + 1/2)\, n / m \rfloor$ of n, for
      voxel i of m; torch's `nearest-exact`, in integers). Type and format stay.
    - `"maxpool"`: a new voxel holds every class that occurs in the part of the target that it covers. Small lesions
      survive, and none of the other classes is lost for it: the result is multilabel.
    - `"area"`: a new voxel holds the share of each class in the part that it covers: soft labels.

    For the latter two, the part that a voxel covers consists of all voxels that it touches, as in torch's adaptive
    pooling. Voxels to ignore do not count there; a new voxel is to be ignored if it covers nothing else.

    Args:
        target: class indices `[B, *spatial]` or `[B, 1, *spatial]`, as many spatial axes as `size` is long (1 to 3), or
            probabilities `[B, C, *spatial]`.
        size: the new spatial size.
        mode: see above.
        num_classes: C. Needed to pool class indices.
        ignore_index: marks voxels to ignore; see `DenseOptions`.

    Returns:
        For `"nearest"` the target's type and format with the new size; else `[B, C, *size]`, float64 for a float64
        target and float32 otherwise. There a voxel to ignore has channel `ignore_index` 1 and the others 0, or if there
        is no such channel, holds `ignore_index` in all.

    Raises:
        TypeError: a target that is no tensor, or class indices of a floating-point type to pool.
        ValueError: an unknown mode, a target of the wrong rank or an empty one, or no `num_classes` to pool class
            indices.

    Example:
        >>> target = torch.tensor([[0, 0, 0, 1, 2, 0]])
        >>> resize_target(target, [3], "nearest")
        tensor([[0, 1, 0]])
        >>> resize_target(target, [3], "maxpool", num_classes=3)
        tensor([[[1., 1., 1.],
                 [0., 1., 0.],
                 [0., 0., 1.]]])
    """
    check_choice("resize_target", "mode", mode, RESIZE_MODES)
    if not isinstance(target, Tensor):
        raise TypeError(f"resize_target takes a tensor, got {type(target).__name__}. Convert it with torch.as_tensor.")
    axes = len(size)
    has_channel = target.ndim == axes + 2
    if axes not in _MAX_POOL or target.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            "resize_target takes 1 to 3 spatial axes behind those of the batch and perhaps of the classes, got a"
            f" target of shape {tuple(target.shape)} for size {tuple(size)}."
        )
    if mode == "nearest":
        return resize_nearest(target, size)
    per_class = has_channel and (target.shape[1] != 1 or num_classes == 1)
    if per_class:
        if num_classes not in (None, target.shape[1]):
            raise ValueError(
                f"resize_target was given num_classes={num_classes}, but the target holds {target.shape[1]} classes:"
                f" its shape is {tuple(target.shape)}."
            )
        num_classes = target.shape[1]
    elif num_classes is None:
        raise ValueError(f"resize_target needs num_classes to resize class indices with mode {mode!r}, got None.")
    elif target.is_floating_point():
        raise TypeError(f"resize_target takes class indices of an integer type, got {target.dtype}. Use .long().")
    elif has_channel:
        target = target.squeeze(1)
    valid = valid_voxels(target, ignore_index, num_classes, per_class=per_class)
    pooled, pooled_valid = resize_pooled(target, valid, size, mode, num_classes)
    if pooled_valid is None or ignore_index is None:
        return pooled
    mark = torch.full((num_classes,), float(ignore_index), dtype=pooled.dtype, device=pooled.device)
    if 0 <= ignore_index < num_classes:
        mark = (torch.arange(num_classes, device=pooled.device) == ignore_index).to(pooled.dtype)
    return torch.where(pooled_valid[:, None], pooled, mark.reshape(-1, *[1] * axes))


def resize_nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """The target at the centers of the new voxels; the spatial axes are the last ones."""
    for axis, new in enumerate(size, start=target.ndim - len(size)):
        old = target.shape[axis]
        if old != new:
            _check_not_empty(target, old)
            centers = torch.arange(new, device=target.device) * 2 + 1
            target = target.index_select(axis, centers * old // (2 * new))
    return target


def resize_pooled(
    target: Tensor,
    valid: Tensor | None,
    size: Sequence[int],
    mode: ResizeMode,
    num_classes: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """Resize with `"maxpool"` or `"area"`.

    Args:
        target: class indices `[B, *spatial]` or probabilities `[B, C, *spatial]`.
        valid: which voxels count, bool `[B, *spatial]` or `[B, C, *spatial]`; None is all.
        size: the new spatial size.
        mode: `"maxpool"` or `"area"`.
        num_classes: C.
        dtype: of the result, unless the target is float64.

    Returns:
        Probabilities `[B, C, *size]`, 0 where not valid, and which voxels are valid, `[B, *size]` or `[B, C, *size]` as
        before, or None for all.
    """
    axes = len(size)
    _check_not_empty(target, min(target.shape[target.ndim - axes :]))
    dtype = torch.float64 if target.dtype == torch.float64 else dtype
    pool = (_MAX_POOL if mode == "maxpool" else _MEAN_POOL)[axes]
    by_class = None if valid is None else valid if valid.ndim == axes + 2 else valid[:, None]
    counts = None if by_class is None else mean_pool(by_class.to(dtype), size)
    if target.ndim == axes + 1 and not can_hold(target.dtype, num_classes - 1):
        target = target.long()  # a comparison with a class that the type cannot hold would wrap around
    channels = []
    for channel in range(num_classes):  # one at a time, so that no one-hot target of the old size is needed
        one = target == channel if target.ndim == axes + 1 else target[:, channel]
        if by_class is not None:
            one = torch.where(by_class[:, min(channel, by_class.shape[1] - 1)], one, 0)
        channels.append(pool(one[:, None].to(dtype), list(size)))
    pooled = torch.cat(channels, dim=1)
    if counts is None:
        return pooled, None
    resized_valid = counts > 0
    if mode == "area":
        pooled = pooled / torch.where(resized_valid, counts, 1.0)
    return pooled, resized_valid if resized_valid.shape[1] > 1 else resized_valid.squeeze(1)


def mean_pool(values: Tensor, size: Sequence[int]) -> Tensor:
    """The means `[B, C, *size]` of the parts that the new voxels cover."""
    return _MEAN_POOL[len(size)](values, list(size))


def _check_not_empty(target: Tensor, length: int) -> None:
    if length == 0:
        raise ValueError(f"A target without voxels cannot be resized, got shape {tuple(target.shape)}.")
