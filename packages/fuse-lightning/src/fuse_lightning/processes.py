"""This process among those of a distributed training, without a Trainer."""

from typing import Any

import torch


def rank_and_world_size() -> tuple[int, int]:
    """The number of this process, and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def of_all_processes(own: Any) -> list[Any]:
    """The values of every process, by rank. Call it on every process."""
    _, processes = rank_and_world_size()
    if processes == 1:
        return [own]
    values: list[Any] = [None] * processes
    torch.distributed.all_gather_object(values, own)
    return values
