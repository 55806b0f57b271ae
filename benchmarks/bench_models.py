# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-core", "fuse-models", "tensordict", "timm", "torchvision==0.21.0"]
#
# [tool.bench]
# # torchvision comes for one torch each; this is the one that it is installed beside in the tests.
# torch = "2.6.0"
# # Its model wrapper alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Time of models, beside torchvision, timm, FuseMedML and tensordict.

    nox -s "bench(models)" -- [--rounds 15] [--threads 2] [--tables backbones]

The contestants take turns, and the ratio is the median over the rounds of the ratio within a round, so that a busy
machine slows both sides of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from functools import partial
from types import ModuleType

import timm
import torch
import torchvision
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from fuse_core import NDict
from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneResnet,
    BackboneResnet3D,
    ModelEnsemble,
    ModelWrapDictToSeq,
    ModelWrapSeqToDict,
)


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


def fuse_med_ml_file(name: str) -> ModuleType:
    """A module of fuse-med-ml from its file, because importing its package imports everything that it depends on."""
    path = importlib.metadata.distribution("fuse-med-ml").locate_file(f"{name.replace('.', '/')}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the next file looks for it
    spec.loader.exec_module(module)
    return module


class Nothing(nn.Module):
    """The least that a wrapped module can do."""

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x


class Copy(nn.Module):
    """The least that a model over a batch_dict can do."""

    def forward(self, batch_dict: NDict) -> NDict:
        """The batch_dict with an entry more."""
        batch_dict["model.y"] = batch_dict["data.x"]
        return batch_dict


def wrappers(rounds: int) -> None:
    """What calling a module through a wrapper costs beyond calling the module."""
    ndict = fuse_med_ml_file("fuse.utils.ndict").NDict
    theirs = fuse_med_ml_file("fuse.dl.models.model_wrapper")
    module, model, x, number = Nothing(), Copy(), torch.zeros(4), 200
    keys = {"model": module, "model_outputs": ["model.y"]}
    by_order = ModelWrapSeqToDict(model_inputs=["data.x"], **keys)
    by_name = ModelWrapSeqToDict(model_inputs={"x": "data.x"}, **keys)
    plain = ModelWrapDictToSeq(model, "model.y", "data.x")
    their_wrapper = theirs.ModelWrapSeqToDict(model_inputs=["data.x"], **keys)
    their_plain = theirs.ModelWrapDictToSeq(model, "model.y", "data.x")
    tensordict_module = TensorDictModule(module, in_keys=[("data", "x")], out_keys=[("model", "y")])
    ours, peers = NDict({"data.x": x, "model.y": x}), ndict({"data.x": x, "model.y": x})
    tensors = TensorDict({"data": {"x": x}, "model": {"y": x}})
    contestants: dict[str, tuple[Callable[[], object], str]] = {
        "the module": (lambda: module(x), ""),
        "`ModelWrapSeqToDict`": (lambda: by_order(ours), "the module"),
        "`ModelWrapSeqToDict`, inputs by name": (lambda: by_name(ours), "the module"),
        "FuseMedML's `ModelWrapSeqToDict`": (lambda: their_wrapper(peers), "the module"),
        "tensordict's `TensorDictModule`": (lambda: tensordict_module(tensors), "the module"),
        "the model over a batch_dict": (lambda: model(ours), ""),
        "`ModelWrapDictToSeq`": (lambda: plain(x), "the model over a batch_dict"),
        "FuseMedML's `ModelWrapDictToSeq`": (lambda: their_plain(x), "the model over a batch_dict"),
    }
    runs = [partial(timeit.timeit, run, number=number) for run, _ in contestants.values()]
    seconds = dict(zip(contestants, take_turns(runs, 20 * rounds), strict=True))
    # The shortest times, as other work on the machine can only lengthen calls of a microsecond.
    best = {name: 1e6 * min(times) / number for name, times in seconds.items()}
    print("\n### Wrappers\n\nA call, and what a wrapper adds to what it wraps.\n")
    print("| call | µs | adds, µs | aim |\n|---|---|---|---|")
    for name, (_, wrapped) in contestants.items():
        cells = [name, f"{best[name]:.2f}", "", ""]
        if wrapped:
            cells[2:] = f"{best[name] - best[wrapped]:.2f}", "3" if name.startswith("`") else ""
        print(f"| {' | '.join(cells)} |", flush=True)


def small_network(channels: int, in_channels: int, rank: int) -> nn.Module:
    """Two convolutions with normalisation, and a linear layer; without convolutions at rank 0."""
    if rank == 0:
        layers = [nn.Linear(in_channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(channels, 10))
    convolution, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[rank]
    first = [convolution(in_channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    second = [convolution(channels, 2 * channels, 3, 2, 1), norm(2 * channels), nn.ReLU(), nn.Flatten(2)]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * channels, 10))


def ensembles(rounds: int) -> None:
    """Ensembles of 8 small networks in eval mode, vectorised, one after another, and as chosen by itself."""
    print("\n### Ensembles\n\nEight small networks in eval mode, without gradients.\n")
    print("| network | input | one after another, ms | vmap / one after another | `auto` / the faster of both | aim |")
    print("|---|---|---|---|---|---|")
    shapes = {
        0: [(1, 32), (64, 32), (512, 32)],
        2: [(1, 3, 16, 16), (8, 3, 16, 16), (8, 3, 32, 32), (32, 3, 32, 32)],
        3: [(1, 1, 16, 16, 16), (2, 1, 32, 32, 32)],
    }
    for rank, channels in ((0, 64), (2, 4), (2, 16), (3, 8)):
        for shape in shapes[rank]:
            keys = {"model_inputs": ["data.x"], "model_outputs": ["model.logits.a"]}
            members = [ModelWrapSeqToDict(model=small_network(channels, shape[1], rank), **keys) for _ in range(8)]
            batch = NDict({"data.x": torch.randn(shape)})
            runs = [
                partial(ModelEnsemble(members, ["model.logits.a"], execution=way).eval(), batch)
                for way in ("sequential", "vmap", "auto")
            ]
            with torch.inference_mode():
                times = take_turns(runs, 3 * rounds)
            sequential, vmap, auto = times
            better = min((sequential, vmap), key=statistics.median)
            kind = f"{channels} units" if rank == 0 else f"{rank}D, {channels} channels"
            milliseconds = f"{1000 * statistics.median(sequential):.2f}"
            ratios = f"{ratio(vmap, sequential):.2f}", f"{ratio(auto, better):.2f}"
            print(f"| {kind} | `{shape}` | {milliseconds} | {' | '.join(ratios)} | 1.10 |", flush=True)


TABLES: dict[str, Callable[[int], None]] = {"backbones": backbones, "wrappers": wrappers, "ensembles": ensembles}


def main(arguments: argparse.Namespace) -> None:
    """Print the tables asked for."""
    versions = (
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "torchvision", "timm", "fuse-med-ml", "tensordict")
    )
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
