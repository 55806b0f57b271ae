"""Sums over all processes of a distributed training, with their gradient."""

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_processes(values: Tensor, across: bool = True) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself if not `across`, or if there is one process only.

    Every process computes the same loss from the sums. DistributedDataParallel then averages the gradients of the
    processes, so each process's share is multiplied by the number of processes.
    """
    if not (across and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total + dist.get_world_size() * (values - values.detach())


def gather_over_processes(values: Tensor) -> Tensor:
    """The rows of all processes, this process's with a gradient, times the number of processes as above."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    count = values.new_tensor([len(values)], dtype=torch.int64)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = [int(one) for one in counts]  # batches may differ in length; this waits for the device
    padded = values.detach().new_zeros(max(lengths), *values.shape[1:])
    padded[: len(values)] = values.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    rows = [part[:length] for part, length in zip(parts, lengths, strict=True)]
    if values.is_floating_point():
        rows[dist.get_rank()] = rows[dist.get_rank()] + dist.get_world_size() * (values - values.detach())
    return torch.cat(rows)
