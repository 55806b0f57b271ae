# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-optim", "numpy", "pytorch-optimizer==4.1.0", "scikit-learn"]
# ///
"""Time and peak memory of a step of SAM, beside a loop over the parameters as in davda54/sam, and pytorch_optimizer.

    nox -s "bench(optim)" -- [--rounds 7] [--device cuda] [--threads 1]
    nox -s "bench(optim)" -- --accuracy

Times are medians over rounds in which all contestants take turns, ratios are medians of the ratios within a round. On a
CPU it is the time for which the process ran, which other work on the machine lengthens less. Memory is measured in a
process of its own for each contestant, as the growth of the peak of the resident set (of the allocator's peak on a GPU)
over that of a step of the plain optimizer, in multiples of the weights.

`--accuracy` prints instead how well a network classifies digits after training on labels of which 30 % are wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuse_optim import SAM

Step = Callable[[], Any]
SGD = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 1e-4}  # with a rate at which the weights hardly move
CONTESTANTS = ("fuse-optim", "davda54-style loop", "pytorch_optimizer")


class Block(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Add the shortcut."""
        return F.relu(self.convolutions(features) + self.shortcut(features))


def resnet18() -> tuple[nn.Module, tuple[int, ...]]:
    """A ResNet-18, and the shape of a batch for it."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = 64
    for channels_out in (64, 128, 256, 512):
        layers += [Block(channels, channels_out, 1 + (channels_out > channels)), Block(channels_out, channels_out, 1)]
        channels = channels_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)), (8, 3, 224, 224)


def small_tensors() -> tuple[nn.Module, tuple[int, ...]]:
    """200 small parameters, and the shape of a batch for them."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(100))), (32, 32)


def wide_layers() -> tuple[nn.Module, tuple[int, ...]]:
    """Weights that take more memory than all activations, and the shape of a batch for them."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(1536, 1536), nn.ReLU()) for _ in range(6))), (4, 1536)


NETWORKS = {"ResNet-18": resnet18, "200 small tensors": small_tensors}


class LoopSAM(torch.optim.Optimizer):
    """SAM with a loop over the parameters in each half of a step, in the manner of davda54/sam."""

    def __init__(self, params: Any, adaptive: bool) -> None:
        super().__init__(params, {"rho": 0.05, "adaptive": adaptive, **SGD})
        self.base_optimizer = torch.optim.SGD(self.param_groups, **SGD)

    @torch.no_grad()
    def first_step(self) -> None:
        """Climb."""
        with_gradients = [
            (p, group["adaptive"]) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.stack([((p.abs() if adaptive else 1.0) * p.grad).norm() for p, adaptive in with_gradients]).norm()
        for p, adaptive in with_gradients:
            self.state[p]["old_p"] = p.data.clone()
            p.add_((p.square() if adaptive else 1.0) * p.grad * (0.05 / (norm + 1e-12)))

    @torch.no_grad()
    def second_step(self) -> None:
        """Restore and descend."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()


def make_sam(contestant: str, model: nn.Module, adaptive: bool = False) -> Any:
    """The optimizer of a library."""
    if contestant == "fuse-optim":
        return SAM(model.parameters(), torch.optim.SGD, adaptive=adaptive, **SGD)
    if contestant == "pytorch_optimizer":
        import pytorch_optimizer

        return pytorch_optimizer.SAM(model.parameters(), torch.optim.SGD, adaptive=adaptive, **SGD)
    return LoopSAM(model.parameters(), adaptive)


def make_pass(model: nn.Module, shape: tuple[int, ...], device: str) -> tuple[nn.Module, Step]:
    """The model on the device, and a function that evaluates it and leaves gradients."""
    model.to(device)
    batch = torch.randn(shape, device=device)

    def evaluate() -> Tensor:
        model.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    return model, evaluate


def whole_step(contestant: str, model: nn.Module, evaluate: Step, **options: Any) -> Step:
    """A step of a library's SAM, as its documentation says; or of the plain optimizer, with one or two passes."""
    if contestant in ("plain", "two passes"):
        optimizer: Any = torch.optim.SGD(model.parameters(), **SGD)

        def step() -> None:
            for _ in range(1 + (contestant == "two passes")):
                evaluate()
            optimizer.step()

    elif contestant == "fuse-optim":
        ours = SAM(model.parameters(), torch.optim.SGD, **SGD, **options)

        def step() -> None:
            ours.step(evaluate)

    else:
        optimizer = make_sam(contestant, model)

        def step() -> None:
            evaluate()
            if contestant == "pytorch_optimizer":
                optimizer.step(evaluate)
            else:
                optimizer.first_step()
                evaluate()
                optimizer.second_step()

    return step


def climb_and_restore(contestant: str, model: nn.Module, evaluate: Step, adaptive: bool) -> Step:
    """What a library's SAM does in a step beside evaluating the model twice and taking the base optimizer's step."""
    optimizer = make_sam(contestant, model, adaptive)
    optimizer.base_optimizer.step = lambda: None
    evaluate()
    gradients = [parameter.grad for parameter in model.parameters()]

    def step() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.first_step()
        optimizer.second_step()

    return step


def measure(steps: dict[str, Step], rounds: int, device: str, repeat: int = 1) -> dict[str, list[float]]:
    """The seconds of each contestant in each round."""

    def seconds(step: Step) -> float:
        _synchronize(device)
        start = _clock(device)
        for _ in range(repeat):
            step()
        _synchronize(device)
        return (_clock(device) - start) / repeat

    measured: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        seconds(step)
    for _ in range(rounds):
        for name, step in steps.items():
            measured[name].append(seconds(step))
    return measured


def _clock(device: str) -> float:
    """On a CPU the time of this process alone, which other work on the machine does not lengthen as much."""
    return time.perf_counter() if device == "cuda" else time.process_time()


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ratio(measured: dict[str, list[float]], name: str, other: str) -> str:
    """The median of one contestant's time over another's."""
    return f"{statistics.median(a / b for a, b in zip(measured[name], measured[other], strict=True)):.3f}"


def milliseconds(measured: dict[str, list[float]], name: str) -> str:
    """The median time."""
    return f"{1000 * statistics.median(measured[name]):.2f}"


def print_row(*cells: str) -> None:
    """A row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def print_times(arguments: argparse.Namespace) -> None:
    """The tables of times."""
    print_row("a whole step", "library", "time [ms]", "over two passes and the base optimizer's step", "aim")
    print_row(*["---"] * 5)
    for network, aim in zip(NETWORKS, ("1.03", "1.20"), strict=True):
        names = ("two passes", *CONTESTANTS)
        parts = {name: make_pass(*NETWORKS[network](), arguments.device) for name in names}
        steps = {name: whole_step(name, *parts[name]) for name in names}
        repeat = 1 if network == "ResNet-18" else 10
        measured = measure(steps, arguments.rounds, arguments.device, repeat)
        for name in names:
            own = aim if name == "fuse-optim" else ""
            print_row(network, name, milliseconds(measured, name), ratio(measured, name, "two passes"), own)

    print()
    print_row("climb and restore", "library", "time [ms]", "fuse-optim / theirs", "aim")
    print_row(*["---"] * 5)
    for network in NETWORKS:
        for adaptive in (False, True):
            steps = {
                name: climb_and_restore(name, *make_pass(*NETWORKS[network](), arguments.device), adaptive)
                for name in CONTESTANTS
            }
            measured = measure(steps, 3 * arguments.rounds, arguments.device, 5)
            for name in CONTESTANTS:
                aim = "1.00" if name == "pytorch_optimizer" else ""
                shown = f"{network}, {'ASAM' if adaptive else 'SAM'}"
                print_row(shown, name, milliseconds(measured, name), ratio(measured, "fuse-optim", name), aim)

    print()
    print_row("a step, the mean of 5", "time [ms]", "over the plain optimizer", "aim")
    print_row(*["---"] * 4)
    for network in NETWORKS:
        options: dict[str, dict[str, Any]] = {"interval=5": {"interval": 5}, "interval=5, reuse": {"reuse": True}}
        steps = {"plain": whole_step("plain", *make_pass(*NETWORKS[network](), arguments.device))}
        for name, option in options.items():
            parts_of_one = make_pass(*NETWORKS[network](), arguments.device)
            steps[name] = whole_step("fuse-optim", *parts_of_one, **{"interval": 5, **option})
        measured = measure(steps, max(2, arguments.rounds // 3), arguments.device, 5)
        for name in steps:
            aim = "1.25" if name == "interval=5" else ""
            print_row(f"{network}, {name}", milliseconds(measured, name), ratio(measured, name, "plain"), aim)


MEMORY_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fuse-optim": {},
    "fuse-optim, adaptive": {"adaptive": True},
    "fuse-optim, interval=2, reuse": {"interval": 2, "reuse": True},
    "davda54-style loop": {},
    "pytorch_optimizer": {},
}


def peak_memory(contestant: str, device: str) -> float:
    """The growth of the peak of memory by a few steps, in multiples of the weights."""
    model, shape = wide_layers()
    model, evaluate = make_pass(model, shape, device)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    small, small_evaluate = make_pass(nn.Linear(8, 8), (2, 8), device)  # loads libraries
    for steps, step in ((3, _memory_step(contestant, small, small_evaluate)), (4, None)):
        if step is None:
            step = _memory_step(contestant, model, evaluate)
            before = _reset_peak(device)
        for _ in range(steps):
            step()
    return (_peak(device) - before) / weights


def _memory_step(contestant: str, model: nn.Module, evaluate: Step) -> Step:
    return whole_step(contestant.split(",")[0], model, evaluate, **MEMORY_OPTIONS[contestant])


def _reset_peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def print_memory(arguments: argparse.Namespace) -> None:
    """The table of peak memory, each contestant in a fresh interpreter."""
    # Freed blocks go back to the system at once, so that the peak is of what is in use, not of what malloc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    peaks = {}
    for contestant in MEMORY_OPTIONS:
        command = [sys.executable, "-W", "ignore", __file__, "--device", arguments.device, "--memory-of", contestant]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks[contestant] = float(done.stdout.strip().splitlines()[-1])
    print_row("peak memory, weights that outweigh the activations", "more than the plain optimizer [weights]", "aim")
    print_row(*["---"] * 3)
    for contestant, peak in peaks.items():
        print_row(contestant, f"{peak - peaks['plain']:.2f}", "1.00" if contestant == "fuse-optim" else "")


ACCURACY_ROWS: dict[str, dict[str, Any] | None] = {
    "SGD": None,
    **{f"SAM, rho={rho}": {"rho": rho} for rho in (0.05, 0.2, 0.5)},
    **{f"ASAM, rho={rho}": {"rho": rho, "adaptive": True, "adaptive_eta": 0.01} for rho in (0.5, 2.0)},
    "SAM, rho=0.2, interval=5": {"rho": 0.2, "interval": 5},
    **{
        f"SAM, rho=0.2, interval=5, reuse_alpha={alpha}": {
            "rho": 0.2,
            "interval": 5,
            "reuse": True,
            "reuse_alpha": alpha,
        }
        for alpha in (0.1, 0.3, 0.7)
    },
}


def accuracy(options: dict[str, Any] | None, seed: int, epochs: int = 40) -> float:
    """The share of digits classified right after training with 30 % of the labels flipped to another class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.target), generator=generator)
    images = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(digits.target)[order]
    train, test = slice(0, 1000), slice(1000, None)
    flipped = torch.rand(1000, generator=generator) < 0.3
    other = (labels[train] + torch.randint(1, 10, (1000,), generator=generator)) % 10
    noisy = torch.where(flipped, other, labels[train])

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    if options is None:
        optimizer: Any = torch.optim.SGD(model.parameters(), **settings)
    else:
        optimizer = SAM(model.parameters(), torch.optim.SGD, **options, **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(1000, generator=generator).split(100):

            def closure(index: Tensor = index) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images[train][index]), noisy[index])
                loss.backward()
                return loss

            optimizer.step(closure)
        schedule.step()
    return (model(images[test]).argmax(1) == labels[test]).float().mean().item()


def print_accuracy() -> None:
    """The table of accuracies, over five seeds: of the split, the flipped labels, the weights and the batches."""
    print_row("optimizer", "test accuracy [%]", "standard deviation", "better than SGD")
    print_row(*["---"] * 4)
    plain: list[float] = []
    for name, options in ACCURACY_ROWS.items():
        values = [100 * accuracy(options, seed) for seed in range(5)]
        plain = plain or values
        better = sum(a > b for a, b in zip(values, plain, strict=True))
        cells = f"{statistics.mean(values):.1f}", f"{statistics.stdev(values):.1f}"
        print_row(name, *cells, "" if options is None else f"{better} of 5 seeds")


def main(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pytorch_optimizer")]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{', '.join(versions)}; Python {platform.python_version()}; {device}\n")
    if arguments.accuracy:
        print_accuracy()
        return
    print_times(arguments)
    print()
    print_memory(arguments)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accuracy", action="store_true", help="print the accuracies on digits instead")
    parser.add_argument("--memory-of", choices=list(MEMORY_OPTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(peak_memory(options.memory_of, options.device))
    else:
        main(options)
