"""Splits a batch into its samples."""

from collections.abc import Mapping
from typing import Any

from .indexing import check_equal_lengths, has_batch_axis
from .ndict import NDict


def uncollate(batch: Mapping[str, Any]) -> list[NDict]:
    """Split a batch into its samples. `collate(uncollate(batch))` equals a batch made by `collate`.

    Lists, and tensors and arrays of rank 1 or more, hold one entry per sample. Every other value belongs to the whole
    batch, such as `global_step` or a loss. Each sample gets it unchanged. Values that `collate` stacked stay tensors:
    an array of a sample comes back as a tensor, a number as a tensor of rank 0.

    Args:
        batch: a batch as a mapping, with nested or dotted keys.

    Raises:
        ValueError: values hold different numbers of samples, or no value has a batch axis.

    Example:
        >>> import torch
        >>> uncollate({"data.sample_id": ["a", "b"], "data.label": torch.tensor([3, 4])})[1]
        NDict({'data.sample_id': 'b', 'data.label': tensor(4)})
    """
    flat = batch if isinstance(batch, NDict) else NDict(batch)
    key_and_length = check_equal_lengths(flat)
    if key_and_length is None:
        raise ValueError(
            f"uncollate takes the number of samples from a list or a tensor of rank 1 or more, but got neither: {flat}."
        )
    _, count = key_and_length
    batched = {key for key, value in flat.items() if has_batch_axis(value)}
    return [NDict((key, value[i] if key in batched else value) for key, value in flat.items()) for i in range(count)]
