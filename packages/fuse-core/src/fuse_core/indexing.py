"""Choosing samples of a batch: the rule that says which values have a batch axis."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .key_names import SAMPLE_ID

Index: TypeAlias = slice | Sequence[bool] | Sequence[int] | np.ndarray[Any, Any] | Tensor


def has_batch_axis(value: object) -> bool:
    """Whether the first axis of a batch's value is the samples: tensors and arrays of rank 1 or more, and lists."""
    return isinstance(value, list) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)


def number_of_samples(batch: Mapping[str, Any]) -> int | None:
    """How many samples a batch with dotted keys holds; None if no value tells.

    It is the length of `data.sample_id`, or else of the first value with a batch axis.
    """
    if SAMPLE_ID in batch:
        return len(batch[SAMPLE_ID])
    return next((len(value) for value in batch.values() if has_batch_axis(value)), None)


def index_value(key: str, value: Any, index: Index) -> Any:
    """`value[index]` for one value of a batch; a value without a batch axis is returned as it is.

    Raises:
        IndexError: a mask of another length, or an index out of range; the message names `key`.
    """
    if not has_batch_axis(value):
        return value
    if isinstance(index, slice):
        return value[index]
    positions = _positions(key, len(value), index)
    if isinstance(value, list):
        return [value[position] for position in positions]
    return value[torch.as_tensor(positions, device=value.device) if isinstance(value, Tensor) else positions]


def _positions(key: str, length: int, index: Any) -> np.ndarray[Any, Any]:
    chosen = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    if chosen.ndim != 1:
        raise IndexError(
            f"indices takes a slice or a mask or sequence of indices with one axis, got shape {chosen.shape}."
        )
    if chosen.dtype == np.bool_:
        if len(chosen) != length:
            raise IndexError(f"A mask needs one entry a sample: it has {len(chosen)}, {key!r} has {length} samples.")
        return np.flatnonzero(chosen)
    if len(chosen) == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(chosen.dtype, np.integer):
        raise IndexError(f"indices takes booleans or integers, got {chosen.dtype}.")
    if chosen.min() < -length or chosen.max() >= length:
        raise IndexError(f"Indices {chosen.tolist()} are out of range for {key!r}, which has {length} samples.")
    return chosen
