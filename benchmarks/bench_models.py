# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-core", "fuse-models", "timm", "torchvision==0.21.0"]
#
# [tool.bench]
# # torchvision comes for one torch each; this is the one that it is installed beside in the tests.
# torch = "2.6.0"
# ///
"""Time of models, beside torchvision and timm.

    nox -s "bench(models)" -- [--rounds 15] [--threads 2] [--tables backbones]

The contestants take turns, and the ratio is the median over the rounds of the ratio within a round, so that a busy
machine slows both sides of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import Tensor, nn

from fuse_models import BackboneInceptionResnetV2, BackboneResnet, BackboneResnet3D


def take_turns(contestants: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each contestant in each round; who goes first changes from round to round."""
    for run in contestants:
        run()
    seconds: list[list[float]] = [[] for _ in contestants]
    for i in range(rounds):
        order = range(len(contestants)) if i % 2 else reversed(range(len(contestants)))
        for j in order:
            start = time.perf_counter()
            contestants[j]()
            seconds[j].append(time.perf_counter() - start)
    return seconds


def ratio(ours: list[float], peers: list[float]) -> float:
    """Our time as a multiple of the peer's."""
    return statistics.median(own / peer for own, peer in zip(ours, peers, strict=True))


def forward_and_backward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A training step without the optimizer."""

    def run() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return run


def without_classifier(model: nn.Module, name: str) -> nn.Module:
    """A peer's network that ends with its pooled features."""
    setattr(model, name, nn.Identity())
    return model


def backbones(rounds: int) -> None:
    """Forward and backward of whole backbones with average pooling, in training mode."""
    peers = torchvision.models
    cases: dict[str, tuple[nn.Module, nn.Module, str, tuple[int, ...]]] = {
        "resnet18": (
            BackboneResnet(pool="avg"),
            without_classifier(peers.resnet18(), "fc"),
            "torchvision",
            (8, 3, 128, 128),
        ),
        "resnet50": (
            BackboneResnet(name="resnet50", pool="avg"),
            without_classifier(peers.resnet50(), "fc"),
            "torchvision",
            (4, 3, 128, 128),
        ),
        "r3d_18": (
            BackboneResnet3D(pool="avg"),
            without_classifier(peers.video.r3d_18(), "fc"),
            "torchvision",
            (2, 3, 8, 56, 56),
        ),
        "inception_resnet_v2": (
            BackboneInceptionResnetV2(43, pool="avg"),
            without_classifier(timm.create_model("inception_resnet_v2"), "classif"),
            "timm",
            (2, 3, 139, 139),
        ),
    }
    print("\n### Backbones\n\nA forward and a backward pass in training mode.\n")
    print("| backbone | input | peer | ours, ms | peer, ms | ours / peer | aim |\n|---|---|---|---|---|---|---|")
    for name, (ours, peer, library, shape) in cases.items():
        peer_weights = {key: value for key, value in peer.state_dict().items() if key in ours.state_dict()}
        ours.load_state_dict(peer_weights)
        x = torch.randn(shape)
        own, others = take_turns([forward_and_backward(ours, x), forward_and_backward(peer, x)], rounds)
        times = [f"{1000 * statistics.median(seconds):.0f}" for seconds in (own, others)]
        cells = (name, f"`{shape}`", library, *times, f"{ratio(own, others):.3f}", "1.03")
        print(f"| {' | '.join(cells)} |", flush=True)


TABLES: dict[str, Callable[[int], None]] = {"backbones": backbones}


def main(arguments: argparse.Namespace) -> None:
    """Print the tables asked for."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "timm"))
    print(
        f"Python {platform.python_version()}, {', '.join(versions)}, {platform.machine()}, "
        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}"
    )
    for name in arguments.tables:
        TABLES[name](arguments.rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    main(options)
