"""How well a small network generalizes with each optimizer: the table of `bench_optim.py --accuracy`.

Digits of scikit-learn with 0 %, 20 % and 40 % wrong labels and a small convolutional network, over 5 seeds of split,
wrong labels, weights and batches. The radius is chosen for each optimizer and share of wrong labels by the mean
accuracy on a validation split, whose labels are as wrong as those of the training split. The test split has the right
labels and chooses nothing.
"""

import os
import statistics
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fuse_optim import SAM, LookSAM, MomentumSAM

sys.path.insert(0, str(Path(__file__).parent))
from measure import print_header, print_row

SEEDS = range(5)
WRONG_LABELS = (0.0, 0.2, 0.4)
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
LATE = 0.8


@dataclass(frozen=True)
class Method:
    """An optimizer with its radii, and about how long one of its steps takes on average, in steps of SGD."""

    name: str
    kind: Any
    radii: tuple[float, ...]
    time: float
    options: tuple[tuple[str, Any], ...] = ()

    def make(self, params: Any, rho: float, steps: int) -> torch.optim.Optimizer:
        """Make the optimizer for a training of so many steps."""
        if self.kind is torch.optim.SGD:
            return torch.optim.SGD(params, **SGD)
        options = dict(self.options)
        if "start_fraction" in options:
            options["total_steps"] = steps
        return self.kind(params, torch.optim.SGD, rho=rho, **options, **SGD)


METHODS = (
    Method("SGD", torch.optim.SGD, (0.0,), 1.0),
    Method("SAM", SAM, (0.05, 0.1, 0.2, 0.4), 2.07),
    Method("ASAM", SAM, (0.5, 1.0, 2.0, 4.0), 2.25, (("adaptive", True), ("adaptive_eta", 0.01))),
    Method("LookSAM, interval=5", LookSAM, (0.1, 0.2, 0.4, 0.8), 1.35, (("interval", 5), ("reuse_alpha", 0.1))),
    Method("MomentumSAM", MomentumSAM, (0.1, 0.3, 1.0, 3.0), 1.19),
    Method("SAM, start_fraction=0.8", SAM, (0.1, 0.2, 0.4, 0.8), 1.24, (("start_fraction", LATE),)),
)


def network() -> nn.Module:
    """A convolutional network of 14,000 weights for images of 8 x 8."""
    layers = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def splits(wrong: float, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels for training, validation and test; wrong labels in the first two."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.target), generator=generator)
    images = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    labels = torch.tensor(digits.target)[order]
    flipped = torch.rand(1200, generator=generator) < wrong
    other = (labels[:1200] + torch.randint(1, 10, (1200,), generator=generator)) % 10
    given = torch.where(flipped, other, labels[:1200])
    return (images[:900], given[:900]), (images[900:1200], given[900:]), (images[1200:], labels[1200:])


def train(method: int, rho: float, wrong: float, seed: int, epochs: int) -> tuple[float, float, float]:
    """Train; return the accuracies on the validation and test split in percent, and the seconds."""
    torch.set_num_threads(1)
    (images, labels), validation, test = splits(wrong, seed)
    torch.manual_seed(seed)
    model = network()
    batches = len(labels) // 60
    optimizer = METHODS[method].make(model.parameters(), rho, epochs * batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    start = time.process_time()
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(60):

            def closure(index: Tensor = index) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images[index]), labels[index])
                loss.backward()
                return loss

            optimizer.step(closure)
            schedule.step()
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        accuracies = [100 * (model(x).argmax(1) == y).float().mean().item() for x, y in (validation, test)]
    return accuracies[0], accuracies[1], seconds


def print_accuracy(epochs: int, quick: bool) -> None:
    """Print the table: all optimizers for equally many epochs, and for equal time, twice that of SGD."""
    seeds, radii = (SEEDS[:1], 1) if quick else (SEEDS, None)
    cases = {}
    for budget in ("equal epochs", "equal time"):
        for number, method in enumerate(METHODS):
            length = epochs if budget == "equal epochs" else round(epochs * 2 / method.time)
            for wrong in WRONG_LABELS:
                for rho in method.radii[:radii]:
                    for seed in seeds:
                        cases[budget, method.name, wrong, rho, seed] = (number, rho, wrong, seed, length)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = dict(zip(set(cases.values()), pool.map(train, *zip(*set(cases.values()), strict=True)), strict=True))
    by_setting = defaultdict(list)
    for (budget, name, wrong, rho, _), case in cases.items():
        by_setting[budget, name, wrong, rho].append(runs[case])
    for budget in ("equal epochs", "equal time"):
        shares = [f"{wrong:.0%} wrong" for wrong in WRONG_LABELS]
        print_header(f"{budget}", "epochs", "time / SGD", *shares, "rho chosen")
        for method in METHODS:
            cells, chosen, seconds = [], [], 0.0
            for wrong in WRONG_LABELS:
                settings = {rho: by_setting[budget, method.name, wrong, rho] for rho in method.radii[:radii]}
                rho = max(settings, key=lambda one: statistics.mean(run[0] for run in settings[one]))
                tests = [run[1] for run in settings[rho]]
                plain = [run[1] for run in by_setting[budget, "SGD", wrong, 0.0]]
                better = sum(a > b for a, b in zip(tests, plain, strict=True))
                spread = f" ± {statistics.stdev(tests):.1f}" if len(tests) > 1 else ""
                cells.append(f"{statistics.mean(tests):.1f}{spread}" + (f" ({better})" if method.name != "SGD" else ""))
                chosen.append(f"{rho:g}")
                seconds += statistics.median(run[2] for run in settings[rho])
            unit = sum(statistics.median(r[2] for r in by_setting["equal epochs", "SGD", w, 0.0]) for w in WRONG_LABELS)
            length = epochs if budget == "equal epochs" else round(epochs * 2 / method.time)
            shown = ", ".join(chosen) if method.name != "SGD" else ""
            print_row(method.name, length, f"{seconds / unit:.2f}", *cells, shown)
