"""The blocks of voxels that the fused losses work on, one at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

Chunk = tuple[slice, slice]


def voxel_chunks(shape: torch.Size, device: torch.device) -> Iterator[Chunk]:
    """Slices of samples and of voxels that together cover `[B, C, S]`.

    A block is small beside the whole, so that a handful of temporaries of its size cost little memory. On a CPU each
    thread's part of it also fits the cache; elsewhere blocks are larger, because starting a kernel costs more than it
    saves.

    Example:
        >>> list(voxel_chunks(torch.Size((2, 2, 4)), torch.device("cpu")))
        [(slice(0, 2, None), slice(0, 4, None))]
    """
    samples, classes, voxels = shape
    share = samples * voxels  # as one number for each voxel
    cpu = device.type == "cpu"
    elements = min(max(share, 2**15), 2**18 * torch.get_num_threads()) if cpu else max(share, 2**20)
    samples_per_chunk = max(1, elements // max(1, classes * voxels))
    voxels_per_chunk = max(1, elements // max(1, classes))
    for sample in range(0, samples, samples_per_chunk):
        for voxel in range(0, voxels, voxels_per_chunk):
            yield (
                slice(sample, min(sample + samples_per_chunk, samples)),
                slice(voxel, min(voxel + voxels_per_chunk, voxels)),
            )


def class_index(target: Tensor, valid: Tensor | None, chunk: Chunk) -> Tensor:
    """The class indices of a block of a target `[B, S]`, as int64 `[b, s]`; 0 where not valid, safe to index with."""
    index = target[chunk].long()
    return index if valid is None else torch.where(valid[chunk], index, 0)


def adds_by_index(device: torch.device) -> bool:
    """Whether to sum voxels by class with `scatter_add_`: on a GPU all threads would wait for the same few sums."""
    return device.type == "cpu"
