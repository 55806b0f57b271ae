"""Weights of the classes, given or from how often the classes occur."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._fused.device_rules import accumulation_dtype, adds_by_index, counting_dtype, voxel_chunks


def inverse_proportion_weights(target: Tensor, num_classes: int, valid: Tensor | None = None) -> Tensor:
    r"""Weights in inverse proportion to how often each class occurs.

    $w_c = N / (K\, n_c)$, where $n_c$ of the N valid voxels are of class c and K classes occur at all. These are the
    weights known as "balanced" (King and Zeng 2001, "Logistic Regression in Rare Events Data"): the voxels of each
    class together weigh N / K, and an average voxel weighs 1. A class that does not occur has weight 0.

    Args:
        target: class indices of any shape, or probabilities `[B, C, *spatial]` if floating-point.
        num_classes: C. Indices outside of 0 to C - 1 are not counted.
        valid: which voxels count, bool or 0 and 1, in the target's shape (without its class axis); None is all.

    Returns:
        `[C]`, float64 for a float64 target, else float32.

    Raises:
        TypeError: a target that is no tensor.
        ValueError: probabilities whose axis 1 is not C long.

    Example:
        >>> inverse_proportion_weights(torch.tensor([[0, 0, 0, 2]]), num_classes=3)
        tensor([0.6667, 0.0000, 2.0000])
    """
    if not isinstance(target, Tensor):
        raise TypeError(
            f"inverse_proportion_weights takes a tensor as target, got {type(target).__name__}. Convert it with"
            " torch.as_tensor."
        )
    valid = None if valid is None else valid.bool()
    if target.is_floating_point():
        if target.ndim < 2 or target.shape[1] != num_classes:
            raise ValueError(
                f"inverse_proportion_weights takes probabilities [B, {num_classes}, ...] or integer class indices, got"
                f" {target.dtype} of shape {tuple(target.shape)}."
            )
        flat = target.flatten(2) if target.ndim > 2 else target[..., None]
        flat_valid = None if valid is None else valid.reshape(flat.shape[0], flat.shape[2])
    else:
        flat = target.reshape(1, -1)
        flat_valid = None if valid is None else valid.reshape(1, -1)
    counts = class_counts(flat, flat_valid, num_classes)
    return balanced(counts).to(accumulation_dtype(target.dtype))


def numbers_on_device(numbers: Sequence[float] | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of the classes as a tensor `[C]`."""
    if isinstance(numbers, Tensor):
        return numbers.detach().to(device, dtype)
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype)
    result = torch.empty(len(numbers), dtype=dtype, device=device)
    for place, number in zip(result.unbind(), numbers, strict=True):
        place.fill_(number)  # one by one, because a copy from the CPU would wait for the device
    return result


def balanced(counts: Tensor) -> Tensor:
    """N / (K n) of the counts n `[C]` of each class; 0 where n is 0."""
    occurs = counts > 0
    divisor = torch.where(occurs, counts, 1) * occurs.sum().clamp(min=1)
    return torch.where(occurs, counts.sum() / divisor, 0.0)


def class_counts(target: Tensor, valid: Tensor | None, num_classes: int, voxel_weights: Tensor | None = None) -> Tensor:
    """How many valid voxels are of each class, or the sum of their weights.

    Args:
        target: class indices `[B, S]`, of which those that are no class are not counted, or probabilities `[B, C, S]`,
            which are summed.
        valid: bool `[B, S]`, or with probabilities `[B, C, S]`; None is all.
        num_classes: C.
        voxel_weights: `[B, S]`; None is 1 for all.

    Returns:
        `[C]`, floating-point.
    """
    if torch.compiler.is_compiling():
        counts: Tensor = _compiled_counts(target, valid, num_classes, voxel_weights)
        return counts
    return _counts(target, valid, num_classes, voxel_weights)


def _counts(target: Tensor, valid: Tensor | None, num_classes: int, voxel_weights: Tensor | None) -> Tensor:
    probabilities = target.ndim == 3
    dtype = counting_dtype(target.device)
    # Class c is counted at c + 1; what is no class, at either end.
    counts = target.new_zeros(
        num_classes + 2, dtype=dtype if probabilities or voxel_weights is not None else torch.int64
    )
    one = counts.new_ones(1)
    classes = torch.arange(num_classes, device=target.device)[:, None]
    for samples, voxels in voxel_chunks(torch.Size((len(target), num_classes, target.shape[-1])), target.device):
        weights = None if voxel_weights is None else voxel_weights[samples, voxels].to(dtype)
        if probabilities:
            block = target[samples, :, voxels]
            if valid is not None:
                by_class = valid[samples, None, voxels] if valid.ndim == 2 else valid[samples, :, voxels]
                block = torch.where(by_class, block, 0)
            block = block if weights is None else block * weights[:, None]
            counts[1:-1] += block.sum((0, 2), dtype=dtype)
            continue
        chunk_valid = None if valid is None else valid[samples, voxels]
        if target.dtype == torch.uint8 and adds_by_index(target.device):
            counts[1:-1] += _bincount(target[samples, voxels], chunk_valid, num_classes, weights)
            continue
        index = target[samples, voxels].long()
        if chunk_valid is not None:
            index = torch.where(chunk_valid, index, -1)
        if adds_by_index(index.device):
            index = index.clamp(-1, num_classes).add_(1).flatten()
            counts.scatter_add_(0, index, one.expand(index.shape) if weights is None else weights.flatten())
        else:
            is_class = index[:, None] == classes
            counts[1:-1] += (is_class if weights is None else is_class * weights[:, None]).sum((0, 2))
    return counts[1:-1].to(dtype, copy=True)  # no view, which the compiler would take for aligned memory


def _bincount(target: Tensor, valid: Tensor | None, num_classes: int, weights: Tensor | None) -> Tensor:
    """The counts of class indices of a type without negative numbers."""
    if valid is not None and weights is not None:
        weights = torch.where(valid, weights, 0)
    elif valid is not None:
        target = target * valid
    counts = torch.bincount(target.flatten(), None if weights is None else weights.flatten(), minlength=num_classes)
    if valid is not None and weights is None:
        counts[0] -= valid.numel() - valid.sum()
    return counts[:num_classes]


# One operation to the compiler, for which the loop would be one over blocks of a fixed size.
@torch.library.custom_op(
    "fuse_losses::class_counts",
    mutates_args=(),
    schema="(Tensor target, Tensor? valid, int num_classes, Tensor? voxel_weights) -> Tensor",
)
def _compiled_counts(target: Tensor, valid: Tensor | None, num_classes: int, voxel_weights: Tensor | None) -> Tensor:
    return _counts(target, valid, num_classes, voxel_weights)


@_compiled_counts.register_fake
def _(target: Tensor, _: Tensor | None, num_classes: int, __: Tensor | None) -> Tensor:
    return target.new_empty(num_classes, dtype=counting_dtype(target.device))
