"""The mean of every loss over an epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fuse_core import number_of_samples

from .batch_losses import BatchLosses, batch_losses


class EpochLosses:
    """Sums the losses of an epoch's batches, weighted by their numbers of samples, on the device they are on.

    Nothing is read back from the device before `means`. A batch that tells no number of samples counts as one. The
    number is that of the batch, also for a loss whose `preprocess_func` leaves samples out: a loss tells its value
    alone.

    Example:
        >>> from fuse_core import NDict
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
        """Add the losses of one batch, those that `step_losses` wrote to `losses.*`.

        Args:
            batch_dict: the batch.
            samples: how many samples the losses are means over; None is all of the batch, 0 adds nothing.
            counts: a boolean scalar on the losses' device that tells whether the batch is counted; None is yes.
            losses: what `batch_losses` gives for the batch, where it is known already.
        """
        if samples is None:
            samples = number_of_samples(batch_dict) or 1
        names, values = batch_losses(batch_dict) if losses is None else losses
        sums = self._sums.get(names)
        if sums is None:  # of a batch that adds nothing too, so that all processes have the same names to reduce
            sums = self._sums[names] = _Sums(values)
        if samples:
            sums.add(values, samples, counts)

    def means(self, reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean of each loss over all samples since the last `reset`.

        Args:
            reduce_sum: sums a tensor over processes. All processes must have seen the same losses.
        """
        totals: dict[str, Tensor] = {}  # the sum and the number of samples of each loss
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.sum_and_samples().unbind(1), strict=True):
                totals[name] = totals[name] + total if name in totals else total
        if not totals:
            return {}
        names = tuple(sorted(totals))  # in the same order on all processes
        stacked = torch.stack([totals[name] for name in names], dim=1)
        if reduce_sum is not None:
            stacked = reduce_sum(stacked)
        return dict(zip(names, (stacked[0] / stacked[1]).unbind(), strict=True))

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self._sums.clear()


class _Sums:
    """The sums of losses that batches have together."""

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
