# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-core", "fuse-models", "numpy", "tensordict"]
#
# [tool.bench]
# # Its NDict alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Speed of fuse-core against a plain dict, fuse-med-ml's NDict, tensordict and PyTorch's collate, in one run.

Each figure is the median over rounds in which the candidates take turns, so that a busy machine slows all of them.
Run it with `nox -s bench`; the last measured table is in docs/benchmarks.md.
"""

import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.utils.data import default_collate

from fuse_core import NDict, collate
from fuse_models import ModelWrapSeqToDict


def load_fuse_med_ml_ndict() -> type:
    """The NDict of fuse-med-ml from its file, because importing its package imports everything that it depends on."""
    path = importlib.metadata.distribution("fuse-med-ml").locate_file("fuse/utils/ndict.py")
    spec = importlib.util.spec_from_file_location("fuse_med_ml_ndict", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NDict


FuseMedMLNDict = load_fuse_med_ml_ndict()
ROUNDS = 31
Case = dict[str, Callable[[], Any]]


def microseconds(case: Case, number: int, per_call: int = 1) -> dict[str, float]:
    """The median time of each candidate in microseconds, for one of the `per_call` operations in a call."""
    for run in case.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in case}
    for _ in range(ROUNDS):
        for name, run in case.items():
            times[name].append(timeit.timeit(run, number=number) / number / per_call * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def make_keys(count: int) -> list[str]:
    """Keys three segments deep, as a batch has them."""
    return [f"group{i % 5}.part{i % 7}.leaf{i}" for i in range(count)]


def containers(count: int) -> tuple[list[str], dict[str, Any], NDict, Any, Any]:
    """The same values in each kind of dictionary."""
    keys = make_keys(count)
    value = torch.zeros(4)
    flat = dict.fromkeys(keys, value)
    peer = FuseMedMLNDict(dict(flat))
    tensors = TensorDict({}, batch_size=[])
    for key in keys:
        tensors[tuple(key.split("."))] = value
    return keys, flat, NDict(flat), peer, tensors


def read_leaf(flat: Any, keys: list[Any]) -> Callable[[], None]:
    """Read every leaf once."""

    def run() -> None:
        for key in keys:
            flat[key]

    return run


def write_leaf(flat: Any, keys: list[Any]) -> Callable[[], None]:
    """Overwrite every leaf once."""
    value = torch.ones(4)

    def run() -> None:
        for key in keys:
            flat[key] = value

    return run


def one_call(flat: Any, key: Any, write: bool) -> Callable[[], None]:
    """A function that reads or overwrites one leaf, as a component does."""
    value = torch.ones(4)

    def read() -> None:
        flat[key]

    def overwrite() -> None:
        flat[key] = value

    return overwrite if write else read


def dictionary_cases(count: int) -> dict[str, dict[str, float]]:
    """Reads, writes, views and misses at one size."""
    keys, flat, nd, peer, tensors = containers(count)
    tuples = [tuple(key.split(".")) for key in keys]
    last = keys[-1].split(".")
    branch, rest = last[0], ".".join(last[1:])
    everyone = {
        "dict": (flat, keys),
        "fuse-core": (nd, keys),
        "fuse-med-ml": (peer, keys),
        "tensordict": (tensors, tuples),
    }

    def cases(make: Callable[[Any, list[Any]], Callable[[], None]]) -> Case:
        return {name: make(container, names) for name, (container, names) in everyone.items()}

    return {
        f"leaf read, {count} keys": microseconds(cases(read_leaf), 200, count),
        f"leaf overwrite, {count} keys": microseconds(cases(write_leaf), 200, count),
        f"a function that reads one leaf, {count} keys": microseconds(
            cases(lambda flat, names: one_call(flat, names[-1], write=False)), 5000
        ),
        f"a function that overwrites one leaf, {count} keys": microseconds(
            cases(lambda flat, names: one_call(flat, names[-1], write=True)), 5000
        ),
        f"prefix read and one leaf, {count} keys": microseconds(
            {
                "fuse-core": lambda: nd[branch][rest],
                "fuse-med-ml": lambda: peer[branch][rest],
                "tensordict": lambda: tensors[branch][tuple(last[1:])],
            },
            500,
        ),
        f"`in`, a miss, {count} keys": microseconds(
            {
                "dict": lambda: "model.absent" in flat,
                "fuse-core": lambda: "model.absent" in nd,
                "fuse-med-ml": lambda: "model.absent" in peer,
                "tensordict": lambda: ("model", "absent") in tensors.keys(include_nested=True),
            },
            500,
        ),
    }


def collate_case() -> dict[str, float]:
    """64 samples of 12 keys: images, vectors, numbers, as NDicts for ours and as flat dicts for PyTorch's."""
    flat = [
        {f"data.image{j}": torch.rand(1, 16, 16) for j in range(4)}
        | {f"data.array{j}": np.random.rand(8) for j in range(4)}
        | {f"data.number{j}": i * j for j in range(4)}
        for i in range(64)
    ]
    nested = [NDict(sample) for sample in flat]
    return microseconds({"fuse-core": lambda: collate(nested), "torch": lambda: default_collate(flat)}, 5)


def wrapper_case() -> dict[str, float]:
    """What calling a module through a dictionary costs beyond calling it."""

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    bare, x = Nothing(), torch.zeros(4)
    ours = ModelWrapSeqToDict(model=bare, model_inputs=["data.x"], model_outputs=["model.y"])
    theirs = TensorDictModule(bare, in_keys=[("data", "x")], out_keys=[("model", "y")])
    _, _, nd, _, tensors = containers(35)
    nd["data.x"] = tensors["data", "x"] = x
    times = microseconds(
        {"bare": lambda: bare(x), "fuse-models": lambda: ours(nd), "tensordict": lambda: theirs(tensors)}, 500
    )
    return {"fuse-models": times["fuse-models"] - times["bare"], "tensordict": times["tensordict"] - times["bare"]}


def import_milliseconds() -> float:
    """How much longer importing fuse_core takes than importing torch, in fresh processes."""
    program = "import time; import torch; s = time.perf_counter(); import fuse_core; print(time.perf_counter() - s)"
    command = [sys.executable, "-c", program]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(5)) * 1e3


def row(name: str, times: dict[str, float], reference: str) -> str:
    """A line of the table: the times, and each peer's as a multiple of the reference's."""
    cells = [f"{times[peer]:.3f} ({times[peer] / times[reference]:.2f}x)" if peer in times else "-" for peer in PEERS]
    return f"| {name} | " + " | ".join(cells) + " |"


PEERS = ("dict", "fuse-core", "fuse-med-ml", "tensordict")


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    peers = ("torch", "fuse-med-ml", "tensordict")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in peers)
    print(f"Python {platform.python_version()}, {versions}, {platform.machine()}, one thread\n")
    print("Microseconds an operation; in brackets as a multiple of the dict's, or else of fuse-core's.\n")
    print("| operation | " + " | ".join(PEERS) + " |")
    print("|---" * (len(PEERS) + 1) + "|")
    for count in (35, 200):
        for name, times in dictionary_cases(count).items():
            print(row(name, times, "dict" if "dict" in times else "fuse-core"))
    ours, theirs = collate_case().values()
    print(f"\n- collate, 64 samples of 12 keys: {ours:.0f} µs; torch's default_collate on flat dicts: {theirs:.0f} µs")
    print(f"  ({ours / theirs:.2f}x)")
    for name, added in wrapper_case().items():
        print(f"- calling a module through {name} adds {added:.1f} µs")
    print(f"- `import fuse_core` adds {import_milliseconds():.0f} ms to `import torch`")


if __name__ == "__main__":
    main()
