"""The samples that a distributed sampler repeats."""

from typing import Any

from torch.utils.data import DistributedSampler


def samples_without_padding(loader: Any) -> int | None:
    """The number of this process's samples without those that a distributed sampler repeats.

    `DistributedSampler` gives each process the same number of samples. If the samples do not divide evenly, it repeats
    the first ones at the end of the last processes' shares. Repeated samples would change means and metrics.

    Returns:
        None if no sample is repeated, or if the loader has no such sampler.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> def share(rank):
        ...     return DataLoader(range(5), sampler=DistributedSampler(range(5), num_replicas=2, rank=rank))
        >>> samples_without_padding(share(0)), samples_without_padding(share(1))
        (None, 2)
    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    # Sample i of a process is sample `i * num_replicas + rank` of all.
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    return own if own < sampler.num_samples else None
