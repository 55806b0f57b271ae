"""The losses of a batch as one vector, and their means over an epoch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuse_core import LOSSES, TOTAL_LOSS, NDict, number_of_samples

TOTAL = TOTAL_LOSS.removeprefix(f"{LOSSES}.")
"""The name of the losses' sum among them."""


class BatchLosses(NamedTuple):
    """The names of a batch's losses, and their values as one vector on the device of the last.

    The vector is a copy: a compiled loss that replays CUDA graphs overwrites the memory of its previous value.
    """

    names: tuple[str, ...]
    values: Tensor


def batch_losses(batch_dict: Mapping[str, Any]) -> BatchLosses:
    """The values under `losses.*`, written by `step_losses` or by the model.

    Raises:
        ValueError: a value is not a scalar tensor.

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


class EpochLosses:
    """Means of the losses over an epoch; each batch is weighted by its number of samples.

    The sums stay on the losses' device; nothing is read back before `means`. A batch whose number of samples is unknown
    counts as one sample.

    Example:
        >>> epoch_losses = EpochLosses()
        >>> for value, samples in ((1.0, 3), (5.0, 1)):
        ...     epoch_losses.update(NDict({"data.sample_id": list(range(samples)), "losses.cls": torch.tensor(value)}))
        >>> epoch_losses.means()
        {'cls': tensor(2., dtype=torch.float64)}
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], _Sums] = {}  # by names: a batch may lack a loss that others have

    def update(
        self,
        batch_dict: Mapping[str, Any],
        samples: int | None = None,
        counts: Tensor | None = None,
        losses: BatchLosses | None = None,
    ) -> None:
        """Add the losses of one batch.

        Args:
            batch_dict: the batch, with `losses.*`.
            samples: the number of samples that the losses are means over. None takes the batch's, 0 adds nothing.
            counts: a boolean scalar on the losses' device: whether the batch counts. None means yes.
            losses: the result of `batch_losses` for this batch, if it is there already.
        """
        if samples is None:
            samples = number_of_samples(batch_dict) or 1
        names, values = batch_losses(batch_dict) if losses is None else losses
        sums = self._sums.get(names)
        if sums is None:  # also for a batch that adds nothing: all processes reduce the same names
            sums = self._sums[names] = _Sums(values)
        if samples:
            sums.add(values, samples, counts)

    def means(self, reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean of each loss over all samples since the last `reset`.

        Args:
            reduce_sum: sums a tensor over processes. All processes must have seen the same losses.
        """
        totals: dict[str, Tensor] = {}  # the weighted sum and the number of samples of each loss
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.sum_and_samples().unbind(1), strict=True):
                totals[name] = totals[name] + total if name in totals else total
        if not totals:
            return {}
        names = tuple(sorted(totals))  # the same order on all processes
        stacked = torch.stack([totals[name] for name in names], dim=1)
        if reduce_sum is not None:
            stacked = reduce_sum(stacked)
        return dict(zip(names, (stacked[0] / stacked[1]).unbind(), strict=True))

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self._sums.clear()


class _Sums:
    """The sums of the losses of batches that have the same losses."""

    def __init__(self, like: Tensor) -> None:
        dtype = torch.float32 if like.device.type == "mps" else torch.float64  # mps has no float64
        self._weighted = torch.zeros(like.shape, dtype=dtype, device=like.device)
        self._samples = 0
        self._left_out: Tensor | None = None

    def add(self, values: Tensor, samples: int, counts: Tensor | None) -> None:
        """Add the values of one batch."""
        if counts is not None:
            values = torch.where(counts, values, 0)
            left_out = torch.where(counts, 0, samples)
            self._left_out = left_out if self._left_out is None else self._left_out + left_out
        self._weighted.add_(values, alpha=samples)
        self._samples += samples

    def sum_and_samples(self) -> Tensor:
        """The weighted sums and the numbers of samples, of shape (2, losses)."""
        samples = torch.full_like(self._weighted, self._samples)
        if self._left_out is not None:
            samples = samples - self._left_out
        return torch.stack((self._weighted, samples))
