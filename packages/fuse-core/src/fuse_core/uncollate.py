"""A batch back to its samples."""

from collections.abc import Mapping
from typing import Any

from .indexing import check_equal_lengths, has_batch_axis
from .ndict import NDict


def uncollate(batch: Mapping[str, Any]) -> list[NDict]:
    """The samples of a batch: `collate(uncollate(batch))` equals a batch that `collate` made.

    Tensors and arrays of rank 1 or more and lists hold an entry per sample. Every other value belongs to the batch as
    a whole, such as `global_step` or a loss, and each sample gets it as it is. What `collate` has made a tensor stays
    one: a sample's array comes back as a tensor, its number as a tensor of rank 0.

    Args:
        batch: a batch as a mapping, nested or dotted.

    Raises:
        ValueError: values disagree in the number of samples, or nothing tells it.

    Example:
        >>> import torch
        >>> uncollate({"data.sample_id": ["a", "b"], "data.label": torch.tensor([3, 4])})[1]
        NDict({'data.sample_id': 'b', 'data.label': tensor(4)})
    """
    flat = batch if isinstance(batch, NDict) else NDict(batch)
    key_and_length = check_equal_lengths(flat)
    if key_and_length is None:
        raise ValueError(
            f"uncollate needs a list, or a tensor of rank 1 or more, to tell the number of samples; got {flat}."
        )
    _, count = key_and_length
    batched = {key for key, value in flat.items() if has_batch_axis(value)}
    return [NDict((key, value[i] if key in batched else value) for key, value in flat.items()) for i in range(count)]
