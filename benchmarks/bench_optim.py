# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-models", "fuse-optim", "numpy", "pytorch-optimizer==4.1.0", "scikit-learn"]
# ///
"""Time and peak memory of a step of SAM, beside a loop over the parameters as in davda54/sam, and pytorch_optimizer.

    nox -s "bench(optim)" -- [--rounds 7] [--device cuda] [--threads 1] [--quick]
    nox -s "bench(optim)" -- --accuracy

On a CPU a time is that of the process, which other work on the machine lengthens less. Memory is measured in a process
of its own for each contestant, as the growth of the peak over that of a step of the plain optimizer, in multiples of
the weights. `--accuracy` prints instead how well a network classifies digits after training on labels of which 30 % are
wrong.
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
import torch.nn.functional as F
from torch import Tensor, nn

from fuse_models import BackboneResnet
from fuse_optim import SAM

sys.path.insert(0, str(Path(__file__).parent))
import measure
from measure import Run, print_header, print_row

SGD = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 1e-4}  # with a rate at which the weights hardly move
CONTESTANTS = ("fuse-optim", "davda54-style loop", "pytorch_optimizer")
MEMORY_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fuse-optim": {},
    "fuse-optim, adaptive": {"adaptive": True},
    "fuse-optim, interval=2, reuse": {"interval": 2, "reuse": True},
    "davda54-style loop": {},
    "pytorch_optimizer": {},
}


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


SAM_OF = dict(zip(CONTESTANTS, (SAM, LoopSAM, pytorch_optimizer.SAM), strict=True))


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


def whole_step(contestant: str, model: nn.Module, evaluate: Run, **options: Any) -> Run:
    """A step of a library's SAM, as its documentation says; or of the plain optimizer, with one or two passes."""
    if contestant in SAM_OF:
        optimizer = SAM_OF[contestant](model.parameters(), torch.optim.SGD, **SGD, **options)
    else:
        optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def step() -> None:
        if contestant == "fuse-optim":
            optimizer.step(evaluate)
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
    optimizer = SAM_OF[contestant](model.parameters(), torch.optim.SGD, adaptive=adaptive, **SGD)
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
    for network, aim in zip(NETWORKS, ("1.03", "1.20"), strict=True):
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
        options: dict[str, dict[str, Any]] = {
            "interval=5": {"interval": 5},
            "interval=5, reuse": {"interval": 5, "reuse": True},
        }
        steps = {"plain": whole_step("plain", *make_pass(*make(), device))}
        for name, option in options.items():
            steps[name] = whole_step("fuse-optim", *make_pass(*make(), device), **option)
        seconds, milliseconds = take_turns(steps, max(1, rounds // 3), 5)
        for name in steps:
            share = f"{measure.ratio(seconds, name, 'plain'):.3f}"
            print_row(f"{network}, {name}", milliseconds[name], share, "1.25" if name == "interval=5" else "")


def peak_memory(contestant: str, device: str) -> float:
    """The growth of the peak of memory by a few steps, in multiples of the weights."""
    name, options = contestant.split(",")[0], MEMORY_OPTIONS[contestant]
    small = whole_step(name, *make_pass(nn.Linear(8, 8), (2, 8), device), **options)
    for _ in range(3):
        small()  # loads libraries
    model, evaluate = make_pass(*wide_layers(), device)
    step = whole_step(name, model, evaluate, **options)
    growth = measure.peak_growth(lambda: [step() for _ in range(4)], device)
    return growth / sum(parameter.nbytes for parameter in model.parameters())


def print_memory(device: str) -> None:
    """Print the table of peak memory."""
    print_header("peak memory, weights that outweigh the activations", "more than the plain optimizer [weights]", "aim")
    for contestant in MEMORY_OPTIONS:
        (peak,) = measure.in_fresh_process(__file__, "--device", device, "--memory-of", contestant)
        if contestant == "plain":
            plain = peak
        print_row(contestant, f"{peak - plain:.2f}", "1.00" if contestant == "fuse-optim" else "")


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


def accuracy(options: dict[str, Any] | None, seed: int, epochs: int) -> float:
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


def print_accuracy(epochs: int) -> None:
    """Print the accuracies over five seeds: of the split, the flipped labels, the weights and the batches."""
    print_header("optimizer", "test accuracy [%]", "standard deviation", "better than SGD")
    plain: list[float] = []
    for name, options in ACCURACY_ROWS.items():
        values = [100 * accuracy(options, seed, epochs) for seed in range(5)]
        plain = plain or values
        better = sum(a > b for a, b in zip(values, plain, strict=True))
        cells = f"{statistics.mean(values):.1f}", f"{statistics.stdev(values):.1f}"
        print_row(name, *cells, "" if options is None else f"{better} of 5 seeds")


def main(arguments: argparse.Namespace) -> None:
    """Print the tables asked for."""
    measure.print_versions("pytorch_optimizer", device=arguments.device)
    if arguments.accuracy:
        print_accuracy(epochs=2 if arguments.quick else 40)
        return
    print_times(arguments.device, arguments.rounds)
    print_memory(arguments.device)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = measure.options_of(__doc__, rounds=7, threads=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--accuracy", action="store_true", help="print the accuracies on digits instead")
    parser.add_argument("--memory-of", choices=list(MEMORY_OPTIONS), help=argparse.SUPPRESS)
    options = measure.parse(parser)
    if options.memory_of:
        print(peak_memory(options.memory_of, options.device))
    else:
        main(options)
