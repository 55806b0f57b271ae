"""Which values of a batch have a batch axis, how tensors are stacked along it, and how an index chooses samples."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .key_names import SAMPLE_ID

Index: TypeAlias = slice | Sequence[bool] | Sequence[int] | np.ndarray[Any, Any] | Tensor


def has_batch_axis(value: object) -> bool:
    """Whether a value holds one entry per sample. True for lists, and for tensors and arrays of rank 1 or more."""
    return isinstance(value, list) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)


def length(value: Any) -> int:
    """The number of entries of a value with a batch axis; torch refuses `len` of a strided nested tensor."""
    return value.size(0) if isinstance(value, Tensor) else len(value)


def check_equal_lengths(batch: Mapping[str, Any]) -> tuple[str, int] | None:
    """A key with a batch axis and its number of samples; None if no key has a batch axis.

    Raises:
        ValueError: two keys hold different numbers of samples. The message names them.
    """
    sizes = {key: length(value) for key, value in batch.items() if has_batch_axis(value)}
    if not sizes:
        return None
    reference = SAMPLE_ID if SAMPLE_ID in sizes else next(iter(sizes))
    for key, size in sizes.items():
        if size != sizes[reference]:
            raise ValueError(
                f"All values of a batch must hold the same number of samples: {reference!r} holds {sizes[reference]}, "
                f"{key!r} holds {size}. Remove {key!r} first, or give it one entry per sample."
            )
    return reference, sizes[reference]


def positions(index: Index, key: str, length: int) -> list[int]:
    """The positions, counted from 0, that an index chooses among the `length` samples of `key`.

    Raises:
        IndexError: the mask has another length, or a position is out of range.
        TypeError: the index holds neither booleans nor integers.
    """
    if isinstance(index, slice):
        return list(range(length))[index]
    chosen = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    if chosen.ndim != 1:
        raise IndexError(f"indices takes a slice, or a mask or indices with one axis, got shape {chosen.shape}.")
    if not isinstance(index, Tensor | np.ndarray) and len({isinstance(one, bool | np.bool_) for one in index}) > 1:
        raise TypeError(f"indices takes booleans or integers, not both: got {list(index)}.")
    if chosen.dtype == np.bool_:
        if len(chosen) != length:
            raise IndexError(f"A mask needs one entry per sample: it has {len(chosen)}, {key!r} has {length} samples.")
        chosen = np.flatnonzero(chosen)
    if len(chosen) and not np.issubdtype(chosen.dtype, np.integer):
        raise TypeError(f"indices takes booleans or integers, got {chosen.dtype}.")
    found: list[int] = chosen.tolist()
    if any(not -length <= position < length for position in found):
        raise IndexError(f"Indices {found} are out of range for {key!r}, which has {length} samples.")
    return [position % length for position in found]


def take(value: Any, chosen: list[int]) -> Any:
    """The entries of one value at the chosen positions. A value without a batch axis is returned unchanged."""
    if not has_batch_axis(value):
        return value
    if isinstance(value, list):
        return [value[position] for position in chosen]
    if isinstance(value, Tensor):
        if chosen and _is_monai(value):  # MONAI's own indexing by a tensor keeps the metadata of the first samples
            return stack([value[position] for position in chosen])
        if value.is_nested:
            return torch.nested.as_nested_tensor([value[position] for position in chosen], layout=value.layout)
        return value[torch.tensor(chosen, dtype=torch.int64, device=value.device)]
    return value[np.array(chosen, dtype=np.int64)]


def stack(tensors: list[Tensor]) -> Any:
    """Stack tensors along a new first axis, in shared memory in a worker process.

    A batch of MONAI's MetaTensors keeps the affine and the metadata of each sample.
    """
    if any(map(_is_monai, tensors)):
        if not all(map(_is_monai, tensors)):
            raise TypeError("some are MONAI's MetaTensors, others are plain tensors")
        return sys.modules["monai.data.utils"].collate_meta_tensor(tensors)
    return default_collate(tensors)


def _is_monai(tensor: Tensor) -> bool:
    if type(tensor) is Tensor:
        return False
    monai = sys.modules.get("monai.data.utils")  # imported already if the tensor is a MetaTensor
    return monai is not None and isinstance(tensor, monai.MetaObj)
