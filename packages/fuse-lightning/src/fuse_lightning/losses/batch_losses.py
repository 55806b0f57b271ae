"""The losses of one batch, read from the batch_dict once for all that look at them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuse_core import LOSSES, TOTAL_LOSS, NDict

TOTAL = TOTAL_LOSS.removeprefix(f"{LOSSES}.")
"""The name of the losses' sum among them."""


class BatchLosses(NamedTuple):
    """The losses of one batch: their names, and their values as one vector on the device of the last.

    A copy: a compiled loss that replays CUDA graphs writes its next value where the last one was.
    """

    names: tuple[str, ...]
    values: Tensor


def batch_losses(batch_dict: Mapping[str, Any]) -> BatchLosses:
    """The values under `losses.*`, those that `step_losses` wrote and those that the model wrote itself.

    Raises:
        ValueError: one of them is no scalar tensor.

    Example:
        >>> batch_losses({"losses.cls": torch.tensor(1.0), "losses.total_loss": torch.tensor(1.5)})
        BatchLosses(names=('cls', 'total_loss'), values=tensor([1.0000, 1.5000]))
    """
    if not isinstance(batch_dict, NDict):
        batch_dict = NDict(batch_dict)
    prefix = f"{LOSSES}."
    losses = {key.removeprefix(prefix): value for key, value in batch_dict.items() if key.startswith(prefix)}
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(
                f"Values under 'losses.' are scalar tensors, but 'losses.{name}' is {found}. Reduce it, or keep it "
                f"under another key."
            )
    if not losses:
        return BatchLosses((), torch.empty(0))
    device = next(reversed(losses.values())).device
    return BatchLosses(tuple(losses), torch.stack([value.to(device) for value in losses.values()]).detach())
