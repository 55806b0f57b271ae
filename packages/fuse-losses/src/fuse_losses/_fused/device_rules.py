"""What depends on the device: number types, sizes of blocks, whether values may be read, what Triton computes."""

import functools
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses import FakeTensor

Chunk = tuple[slice, slice]
_DEVICES_WITHOUT_FLOAT64 = {"mps"}
_DEVICES_WITH_TRITON = {"cuda"}  # AMD's GPUs have this type too
_MOST_CLASSES = 128  # a program of the Triton kernels holds all classes of its voxels in registers


def counting_dtype(device: torch.device) -> torch.dtype:
    """The type of what is small and should be exact, such as counts: float64 where the device has it."""
    return torch.float32 if device.type in _DEVICES_WITHOUT_FLOAT64 else torch.float64


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that losses compute in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def values_may_be_read(tensor: Tensor, validate: bool) -> bool:
    """Whether Python may look at the values: it costs no synchronization, or was asked for, and nothing is tracing."""
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


def kernels_for(logits: Tensor, target: Tensor, activation: str) -> ModuleType | None:
    """The module `triton_pass` where it computes the pass over these logits, else None.

    It computes the softmax of logits of up to 32 bits and 128 classes with class indices as target, on a GPU. Fake
    tensors have no memory that it could read.
    """
    served = (
        logits.device.type in _DEVICES_WITH_TRITON
        and not isinstance(logits, FakeTensor)
        and activation == "softmax"
        and target.ndim == 2
        and logits.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and logits.shape[1] <= _MOST_CLASSES
        and logits.numel() > 0
    )
    return _triton_pass(logits.device) if served else None


@functools.cache
def _triton_pass(device: torch.device) -> ModuleType | None:
    """The module, once it has run on the device; None where Triton is not installed or fails.

    The CUDA builds of torch install Triton. It needs a C compiler, and GPUs of compute capability 7.0 or higher.
    """
    try:
        from . import triton_pass

        logits, target = torch.zeros(1, 2, 1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
        triton_pass.forward(logits, target, None, None, None, False, False, 0.0)
    except ImportError:
        return None
    except Exception as error:
        warnings.warn(
            f"Triton failed on {device} ({type(error).__name__}: {error}). The losses use operations of torch instead,"
            " which take more time and memory.",
            stacklevel=2,
        )
        return None
    return triton_pass
