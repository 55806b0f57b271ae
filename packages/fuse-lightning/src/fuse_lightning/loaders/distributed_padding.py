"""Which samples of a process are repetitions that a distributed sampler added."""

from typing import Any

from torch.utils.data import DistributedSampler


def samples_without_padding(loader: Any) -> int | None:
    """How many samples of this process's share count, where a distributed sampler filled up the last ones.

    `DistributedSampler` gives each process the same number of samples. Where they do not divide evenly it begins again
    with the first ones, at the end of the last processes' shares. Counted twice, they would move means and metrics.

    Returns:
        None if nothing was added, or if the loader has no such sampler.

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
    # Position i of a process is position `i * num_replicas + rank` of all.
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    return own if own < sampler.num_samples else None
