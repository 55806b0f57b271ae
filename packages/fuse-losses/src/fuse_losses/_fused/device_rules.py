"""The blocks of voxels, the memory and the number types that the fused losses work with, on each device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses import FakeTensor

Chunk = tuple[slice, slice]
_DEVICES_WITHOUT_FLOAT64 = {"mps"}


def counting_dtype(device: torch.device) -> torch.dtype:
    """The type of what is small and should be exact, such as counts: float64 where the device has it."""
    return torch.float32 if device.type in _DEVICES_WITHOUT_FLOAT64 else torch.float64


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that losses compute in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def values_may_be_read(tensor: Tensor, validate: bool) -> bool:
    """Whether Python may look at the values: it costs no synchronisation, or was asked for, and nothing is tracing."""
    if torch.compiler.is_compiling() or isinstance(tensor, FakeTensor) or is_functorch_wrapped_tensor(tensor):
        return False
    return validate or tensor.device.type == "cpu"


def adds_by_index(device: torch.device) -> bool:
    """Whether to sum voxels by class with `scatter_add_`: on a GPU all threads would wait for the same few sums."""
    return device.type == "cpu"


def voxel_chunks(shape: torch.Size, device: torch.device) -> Iterator[Chunk]:
    """Slices of samples and of voxels that together cover `[B, C, S]`.

    A block is small beside the whole, so that a handful of temporaries of its size cost little memory. On a CPU each
    thread's part of a block also fits the cache. On a GPU a block holds 2**25 numbers, 128 MiB in float32, because
    starting a kernel costs more than the cache saves: blocks of 2**20 numbers took three to five times as long (H200).

    Example:
        >>> list(voxel_chunks(torch.Size((2, 2, 4)), torch.device("cpu")))
        [(slice(0, 2, None), slice(0, 4, None))]
    """
    samples, classes, voxels = shape
    share = samples * voxels  # as one number for each voxel
    cpu = device.type == "cpu"
    elements = min(max(share, 2**15), 2**18 * torch.get_num_threads()) if cpu else max(share, 2**25)
    samples_per_chunk = max(1, elements // max(1, classes * voxels))
    voxels_per_chunk = max(1, elements // max(1, classes))
    for sample in range(0, samples, samples_per_chunk):
        for voxel in range(0, voxels, voxels_per_chunk):
            yield (
                slice(sample, min(sample + samples_per_chunk, samples)),
                slice(voxel, min(voxel + voxels_per_chunk, voxels)),
            )


def blocks_of(logits: Tensor, target: Tensor, whole: bool) -> Iterable[Chunk]:
    """The blocks of logits `[B, C, S]`; smaller ones for a target of probabilities, which takes more temporaries."""
    samples, classes, voxels = logits.shape
    if whole:
        return [(slice(0, samples), slice(0, voxels))]
    return voxel_chunks(torch.Size((samples, classes * (2 if target.ndim == 3 else 1), voxels)), logits.device)


def block_of(voxels: Tensor | None, chunk: Chunk) -> Tensor | None:
    """The block `[b, 1, s]` of `[B, S]`, or `[b, C, s]` of `[B, C, S]`."""
    if voxels is None:
        return None
    samples, places = chunk
    return voxels[samples, None, places] if voxels.ndim == 2 else voxels[samples, :, places]


def class_index(target: Tensor, valid: Tensor | None, chunk: Chunk) -> Tensor:
    """The class indices of a block of a target `[B, S]`, as int64 `[b, s]`; 0 where not valid, safe to index with."""
    index = target[chunk]
    return (index if valid is None else index * valid[chunk]).long()  # torch.where takes several times as long


def future_gradient(logits: Tensor) -> Tensor | None:
    """Memory for the gradient of logits that holds the probabilities until then.

    None where no gradient is wanted, or where the gradient is not of the type or the strides that the forward pass
    computes in.
    """
    if not (logits.requires_grad and torch.is_grad_enabled() and logits.is_contiguous()):
        return None
    return torch.empty_like(logits) if logits.dtype == accumulation_dtype(logits.dtype) else None


def working_block(whole: Tensor, chunk: Chunk, dtype: torch.dtype) -> Tensor:
    """Memory to compute the block of `whole` `[B, C, S]` in: the block itself if it serves, else new memory."""
    block = whole[chunk[0], :, chunk[1]]
    if block.dtype == dtype and block.is_contiguous():
        return block
    return torch.empty(block.shape, dtype=dtype, device=block.device)


def store_block(whole: Tensor, chunk: Chunk, block: Tensor) -> None:
    """Write what was computed in a `working_block` to its place, if it is not there."""
    place = whole[chunk[0], :, chunk[1]]
    if place.dtype != block.dtype or not place.is_contiguous():
        place.copy_(block)
