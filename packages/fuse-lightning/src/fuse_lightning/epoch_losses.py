"""The mean of every loss over an epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fuse_core import LOSSES, number_of_samples


class EpochLosses:
    """Sums the losses of an epoch's batches, weighted by their numbers of samples, on the device they are on.

    Nothing is read back from the device before `means`. A batch that tells no number of samples counts as one. The
    number is that of the batch, also for a loss whose `preprocess_func` leaves samples out.

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

    def update(self, batch_dict: Mapping[str, Any]) -> None:
        """Add the losses of one batch, those that `step_losses` wrote to `losses.*`."""
        samples = number_of_samples(batch_dict) or 1
        for name, value in batch_dict[LOSSES].items():
            if name not in self._sums:
                dtype = torch.float32 if value.device.type == "mps" else torch.float64  # mps has no float64
                self._sums[name] = torch.zeros((), dtype=dtype, device=value.device)
                self._samples[name] = 0
            self._sums[name].add_(value.detach(), alpha=samples)
            self._samples[name] += samples

    def means(self, reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean of each loss over all samples since the last `reset`.

        Args:
            reduce_sum: sums a tensor over processes. All processes must have seen the same losses.
        """
        means = {}
        for name, total in self._sums.items():
            sum_and_samples = torch.stack((total, torch.full_like(total, self._samples[name])))
            if reduce_sum is not None:
                sum_and_samples = reduce_sum(sum_and_samples)
            means[name] = sum_and_samples[0] / sum_and_samples[1]
        return means

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self._sums.clear()
        self._samples.clear()
