# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-models", "fuse-optim", "numpy", "pytorch-optimizer==4.1.0", "scikit-learn"]
# ///
"""Time and peak memory of a step of SAM, beside a loop over the parameters as in davda54/sam, and pytorch_optimizer.

    nox -s "bench(optim)" -- [--rounds 7] [--device cuda] [--threads 1] [--quick]
    nox -s "bench(optim)" -- --accuracy

On a CPU a time is that of the process, which other work on the machine lengthens less. Memory is measured in a process
of its own for each contestant, as the growth of the peak over that of a step of the plain optimizer, in multiples of
the weights. `--accuracy` prints instead how well a network generalizes with each optimizer (optim_accuracy.py).
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor, nn

from fuse_models import BackboneResnet
from fuse_optim import SAM, LookSAM, MomentumSAM

sys.path.insert(0, str(Path(__file__).parent))
import measure
from measure import Run, print_header, print_row
from optim_accuracy import print_accuracy

SGD = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 1e-4}  # with a rate at which the weights hardly move
CONTESTANTS = ("fuse-optim", "davda54-style loop", "pytorch_optimizer")
LATE_STEPS = 5  # of which one takes two passes
OURS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fuse-optim": (SAM, {}),
    "adaptive": (SAM, {"adaptive": True}),
    "interval=5": (SAM, {"interval": 5}),
    "start_fraction=0.8": (SAM, {"start_fraction": 0.8, "total_steps": LATE_STEPS}),
    "LookSAM, interval=5": (LookSAM, {"interval": 5}),
    "MomentumSAM": (MomentumSAM, {}),
}
MEMORY = ("plain", "fuse-optim", "adaptive", "LookSAM, interval=5", "MomentumSAM", *CONTESTANTS[1:])


def resnet18() -> tuple[nn.Module, tuple[int, ...]]:
    """A ResNet-18, and the shape of a batch for it."""
    return nn.Sequential(BackboneResnet(pool="avg"), nn.Linear(512, 1000)), (8, 3, 224, 224)


def small_tensors() -> tuple[nn.Module, tuple[int, ...]]:
    """200 small parameters, and the shape of a batch for them."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(100))), (32, 32)


def wide_layers() -> tuple[nn.Module, tuple[int, ...]]:
    """Weights that take more memory than all activations, and the shape of a batch for them."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(1536, 1536), nn.ReLU()) for _ in range(6))), (4, 1536)


NETWORKS = {"ResNet-18": resnet18, "200 small tensors": small_tensors}


class LoopSAM(torch.optim.Optimizer):
    """SAM with a loop over the parameters in each half of a step, in the manner of davda54/sam."""

    def __init__(self, params: Iterable[Tensor], base_optimizer: type, adaptive: bool = False, **settings: Any) -> None:
        super().__init__(params, {"rho": 0.05, "adaptive": adaptive, **settings})
        self.base_optimizer = base_optimizer(self.param_groups, **settings)

    def with_gradients(self) -> list[tuple[Tensor, bool]]:
        """The parameters that have a gradient, and whether to scale by them."""
        return [(p, group["adaptive"]) for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self) -> None:
        """Climb."""
        parameters = self.with_gradients()
        norm = torch.stack([((p.abs() if adaptive else 1.0) * p.grad).norm() for p, adaptive in parameters]).norm()
        for p, adaptive in parameters:
            self.state[p]["old_p"] = p.data.clone()
            p.add_((p.square() if adaptive else 1.0) * p.grad * (0.05 / (norm + 1e-12)))

    @torch.no_grad()
    def second_step(self) -> None:
        """Restore and descend."""
        for p, _ in self.with_gradients():
            p.data = self.state[p]["old_p"]
        self.base_optimizer.step()


PEERS = {"davda54-style loop": LoopSAM, "pytorch_optimizer": pytorch_optimizer.SAM}


def make_pass(model: nn.Module, shape: tuple[int, ...], device: str) -> tuple[nn.Module, Run]:
    """The model on the device, and a function that evaluates it and leaves gradients."""
    model.to(device)
    batch = torch.randn(shape, device=device)

    def evaluate() -> Tensor:
        model.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    return model, evaluate


def whole_step(contestant: str, model: nn.Module, evaluate: Run) -> Run:
    """A step of a library's SAM, as its documentation says; or of the plain optimizer, with one or two passes."""
    if contestant in OURS:
        kind, options = OURS[contestant]
        optimizer = kind(model.parameters(), torch.optim.SGD, **SGD, **options)
    elif contestant in PEERS:
        optimizer = PEERS[contestant](model.parameters(), torch.optim.SGD, **SGD)
    else:
        optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def step() -> None:
        if contestant in OURS:
            optimizer.step(evaluate)
            if contestant == "start_fraction=0.8":  # one training of five steps after another
                optimizer.param_groups[0]["sam_steps"] %= LATE_STEPS
            return
        evaluate()
        if contestant == "pytorch_optimizer":
            optimizer.step(evaluate)
        elif contestant == "davda54-style loop":
            optimizer.first_step()
            evaluate()
            optimizer.second_step()
        else:
            if contestant == "two passes":
                evaluate()
            optimizer.step()

    return step


def climb_and_restore(contestant: str, model: nn.Module, evaluate: Run, adaptive: bool) -> Run:
    """What a library's SAM does in a step beside evaluating the model twice and taking the base optimizer's step."""
    kind = PEERS.get(contestant, SAM)
    optimizer = kind(model.parameters(), torch.optim.SGD, adaptive=adaptive, **SGD)
    optimizer.base_optimizer.step = lambda: None
    evaluate()
    gradients = [parameter.grad for parameter in model.parameters()]

    def step() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.first_step()
        optimizer.second_step()

    return step


def print_times(device: str, rounds: int) -> None:
    """Print the tables of times."""
    # On a CPU the time of this process alone, which other work on the machine does not lengthen as much.
    clock = measure.gpu_clock if device == "cuda" else time.process_time

    def take_turns(steps: dict[str, Run], rounds: int, repeat: int) -> tuple[measure.Seconds, dict[str, str]]:
        seconds = measure.take_turns(steps, rounds, repeat=repeat, clock=clock)
        return seconds, {name: f"{1000 * statistics.median(values):.2f}" for name, values in seconds.items()}

    print_header("a whole step", "library", "time [ms]", "over two passes and the base optimizer's step", "aim")
    for network, aim in zip(NETWORKS, ("1.02", "1.09"), strict=True):
        names = ("two passes", *CONTESTANTS)
        steps = {name: whole_step(name, *make_pass(*NETWORKS[network](), device)) for name in names}
        seconds, milliseconds = take_turns(steps, rounds, 1 if network == "ResNet-18" else 10)
        for name in names:
            share = f"{measure.ratio(seconds, name, 'two passes'):.3f}"
            print_row(network, name, milliseconds[name], share, aim if name == "fuse-optim" else "")

    print_header("climb and restore", "library", "time [ms]", "fuse-optim / theirs", "aim")
    for network, make in NETWORKS.items():
        for adaptive in (False, True):
            steps = {name: climb_and_restore(name, *make_pass(*make(), device), adaptive) for name in CONTESTANTS}
            seconds, milliseconds = take_turns(steps, 3 * rounds, 5)
            for name in CONTESTANTS:
                shown = f"{network}, {'ASAM' if adaptive else 'SAM'}"
                share = f"{measure.ratio(seconds, 'fuse-optim', name):.3f}"
                print_row(shown, name, milliseconds[name], share, "1.00" if name == "pytorch_optimizer" else "")

    print_header("a step, the mean of 5", "time [ms]", "over the plain optimizer", "aim")
    for network, make in NETWORKS.items():
        aims = {"plain": "", "interval=5": "1.25", "start_fraction=0.8": "1.22", "LookSAM, interval=5": ""}
        aims["MomentumSAM"] = "1.05" if network == "ResNet-18" else ""
        steps = {name: whole_step(name, *make_pass(*make(), device)) for name in aims}
        seconds, milliseconds = take_turns(steps, max(1, rounds // 2), 5)
        for name, aim in aims.items():
            print_row(f"{network}, {name}", milliseconds[name], f"{measure.ratio(seconds, name, 'plain'):.3f}", aim)


def peak_memory(contestant: str, device: str) -> float:
    """The growth of the peak of memory by a few steps, in multiples of the weights."""
    small = whole_step(contestant, *make_pass(nn.Linear(8, 8), (2, 8), device))
    for _ in range(3):
        small()  # loads libraries
    model, evaluate = make_pass(*wide_layers(), device)
    step = whole_step(contestant, model, evaluate)
    growth = measure.peak_growth(lambda: [step() for _ in range(7)], device)
    return growth / sum(parameter.nbytes for parameter in model.parameters())


def print_memory(device: str) -> None:
    """Print the table of peak memory."""
    print_header("peak memory, weights that outweigh the activations", "more than the plain optimizer [weights]", "aim")
    for contestant in MEMORY:
        (peak,) = measure.in_fresh_process(__file__, "--device", device, "--memory-of", contestant)
        if contestant == "plain":
            plain = peak
        print_row(contestant, f"{peak - plain:.2f}", "1.00" if contestant in ("fuse-optim", "MomentumSAM") else "")


def main(arguments: argparse.Namespace) -> None:
    """Print the tables asked for."""
    measure.print_versions("pytorch_optimizer", device=arguments.device)
    if arguments.accuracy:
        print_accuracy(epochs=2 if arguments.quick else 30, quick=arguments.quick)
        return
    print_times(arguments.device, arguments.rounds)
    print_memory(arguments.device)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = measure.options_of(__doc__, rounds=7, threads=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--accuracy", action="store_true", help="print accuracies instead")
    parser.add_argument("--memory-of", choices=MEMORY, help=argparse.SUPPRESS)
    options = measure.parse(parser)
    if options.memory_of:
        print(peak_memory(options.memory_of, options.device))
    else:
        main(options)
