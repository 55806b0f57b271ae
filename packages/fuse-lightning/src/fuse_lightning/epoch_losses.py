"""The mean of every loss over an epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fuse_core import LOSSES, number_of_samples


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
        self._sums: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._left_out: dict[str, Tensor] = {}

    def update(self, batch_dict: Mapping[str, Any], samples: int | None = None, counts: Tensor | None = None) -> None:
        """Add the losses of one batch, those that `step_losses` wrote to `losses.*`.

        Args:
            batch_dict: the batch.
            samples: how many samples the losses are means over; None is all of the batch, 0 adds nothing.
            counts: a boolean scalar on the losses' device that tells whether the batch is counted; None is yes.
        """
        if samples is None:
            samples = number_of_samples(batch_dict) or 1
        for name, value in batch_dict[LOSSES].items():
            if name not in self._sums:
                dtype = torch.float32 if value.device.type == "mps" else torch.float64  # mps has no float64
                self._sums[name] = torch.zeros((), dtype=dtype, device=value.device)
                self._samples[name] = 0
            if samples == 0:
                continue
            value = value.detach()
            if counts is not None:
                value = torch.where(counts, value, 0)
                left_out = torch.where(counts, 0, samples)
                self._left_out[name] = self._left_out[name] + left_out if name in self._left_out else left_out
            self._sums[name].add_(value, alpha=samples)
            self._samples[name] += samples

    def means(self, reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean of each loss over all samples since the last `reset`.

        Args:
            reduce_sum: sums a tensor over processes. All processes must have seen the same losses.
        """
        means = {}
        for name, total in self._sums.items():
            samples = torch.full_like(total, self._samples[name]) - self._left_out.get(name, 0)
            sum_and_samples = torch.stack((total, samples))
            if reduce_sum is not None:
                sum_and_samples = reduce_sum(sum_and_samples)
            means[name] = sum_and_samples[0] / sum_and_samples[1]
        return means

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self._sums.clear()
        self._samples.clear()
        self._left_out.clear()
