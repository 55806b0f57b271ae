"""The floating-point types that losses compute and count in, whatever type comes in."""

import torch

_DEVICES_WITHOUT_FLOAT64 = {"mps"}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that losses compute in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def counting_dtype(device: torch.device) -> torch.dtype:
    """The type of what is small and should be exact, such as counts: float64 where the device has it."""
    return torch.float32 if device.type in _DEVICES_WITHOUT_FLOAT64 else torch.float64
