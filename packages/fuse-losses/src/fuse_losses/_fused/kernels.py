"""Which passes over the logits Triton kernels compute."""

import functools
import warnings
from types import ModuleType

import torch
from torch import Tensor

_DEVICES = {"cuda"}  # AMD's GPUs have this type too
_MOST_CLASSES = 128  # a program of the kernels holds all classes of its voxels in registers


def kernels_for(logits: Tensor, target: Tensor, activation: str) -> ModuleType | None:
    """The module `triton_pass` where it computes this pass, else None.

    It computes the softmax of logits of up to 32 bits and 128 classes with class indices as target, on a GPU.
    """
    served = (
        logits.device.type in _DEVICES
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
