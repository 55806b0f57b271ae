"""What bench_losses.py measures on a GPU: a step's time, its memory, and what the GPU's memory would allow."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from measure import Run, gpu_clock
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


class Step(NamedTuple):
    """A forward and a backward pass."""

    milliseconds: float
    """The time of a step where steps follow one another. Small tensors take the time that Python and torch need to
    start the kernels, which a training step with a network hides."""
    gpu_milliseconds: float
    """The time of its kernels, copies and fills on the GPU."""
    launches: float
    """The number of these."""
    peak: float
    """The growth of the peak of memory, in multiples of the logits; their gradient is 1.00."""


def measure_step(run: Run, logits: Tensor, rounds: int) -> Step:
    """Measure a function that leaves a gradient in the logits."""

    def step() -> None:
        logits.grad = None
        run()

    for _ in range(5):
        step()
    seconds = []
    for _ in range(rounds):
        start = gpu_clock()
        for _ in range(20):
            step()
        seconds.append((gpu_clock() - start) / 20)
    logits.grad = None
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    step()
    peak = torch.cuda.max_memory_allocated() - allocated
    return Step(1000 * statistics.median(seconds), *busy(step), peak / logits.nbytes)


def busy(run: Run, rounds: int = 10) -> tuple[float, float]:
    """The milliseconds that a run keeps the GPU busy, and the number of its kernels, copies and fills."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(rounds):
            run()
        torch.cuda.synchronize()
    events = [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(event.device_time for event in events) / rounds / 1000, len(events) / rounds


def milliseconds_of_three_passes(shape: tuple[int, ...]) -> float:
    """The least time that a step can take: the logits are read twice, and their gradient is written."""
    source = torch.randn(shape, device="cuda")
    copy = torch.empty_like(source)
    return 1.5 * busy(lambda: copy.copy_(source))[0]  # a copy is two passes


def without_kernels() -> AbstractContextManager[object]:
    """The losses of fuse-losses by operations of torch, as where Triton is missing."""
    from fuse_losses._fused import device_rules

    return mock.patch.object(device_rules, "_triton_pass", return_value=None)


def by_inductor() -> Callable[[Tensor, Tensor], Tensor]:
    """The plain formula of Dice + cross-entropy, compiled."""

    def formula(logits: Tensor, target: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(logits.flatten(2), 1)
        truth = F.one_hot(target.flatten(1), logits.shape[1]).movedim(-1, 1)
        probabilities = log_probabilities.exp()
        overlap, predicted, present = (probabilities * truth).sum(2), probabilities.sum(2), truth.sum(2)
        counted = present > 0
        dice = 1 - 2 * overlap / (predicted + torch.where(counted, present, 1))
        cross_entropy = -(log_probabilities * truth).sum() / target.numel()
        return (dice * counted).sum() / counted.sum() + cross_entropy

    return torch.compile(formula, fullgraph=True, dynamic=False)
