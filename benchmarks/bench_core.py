# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-core", "numpy", "tensordict"]
#
# [tool.bench]
# # Its NDict alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Speed of fuse-core beside a plain dict, fuse-med-ml's NDict, tensordict and PyTorch's collate.

What calling a module through a dictionary costs is measured in bench_models.py.

nox -s "bench(core)" -- [--rounds 31] [--quick]
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import default_collate

from fuse_core import NDict, collate

sys.path.insert(0, str(Path(__file__).parent))
import measure
from measure import Run, print_header, print_row

PEERS = ("dict", "fuse-core", "fuse-med-ml", "tensordict")
CALLS = {  # operations, and how often to call them in a turn
    "leaf read": 200,
    "leaf overwrite": 200,
    "a function that reads one leaf": 5000,
    "a function that overwrites one leaf": 5000,
    "prefix read and one leaf": 500,
    "`in`, a miss": 500,
}


def operations(container: Any, keys: list[Any], branch: str, rest: Any, absent: Any) -> dict[str, Run]:
    """Each operation of `CALLS` on one container."""
    last, value = keys[-1], torch.ones(4)

    def read_leaves() -> None:
        for key in keys:
            container[key]

    def overwrite_leaves() -> None:
        for key in keys:
            container[key] = value

    def read_leaf() -> None:
        container[last]

    def overwrite_leaf() -> None:
        container[last] = value

    def read_prefix_and_leaf() -> None:
        container[branch][rest]

    def miss() -> None:
        absent in container  # noqa: B015

    def miss_of_tensordict() -> None:
        absent in container.keys(include_nested=True)  # noqa: B015

    look_up = miss_of_tensordict if isinstance(container, TensorDict) else miss
    runs = (read_leaves, overwrite_leaves, read_leaf, overwrite_leaf, read_prefix_and_leaf, look_up)
    return dict(zip(CALLS, runs, strict=True))


def dictionaries(count: int, rounds: int) -> None:
    """Print reads, writes, views and misses of dictionaries with `count` leaves, three segments deep."""
    keys = [f"group{i % 5}.part{i % 7}.leaf{i}" for i in range(count)]
    tuples = [tuple(key.split(".")) for key in keys]
    flat = dict.fromkeys(keys, torch.zeros(4))
    ours, theirs = NDict(flat), measure.load_fuse_med_ml("fuse.utils.ndict").NDict(dict(flat))
    tensors = TensorDict(dict(zip(tuples, flat.values(), strict=True)))
    branch, rest = keys[-1].split(".", 1)
    runs = [operations(one, keys, branch, rest, "model.absent") for one in (flat, ours, theirs)]
    runs.append(operations(tensors, tuples, branch, tuples[-1][1:], ("model", "absent")))
    for operation, calls in CALLS.items():
        contestants = {peer: runs_of_peer[operation] for peer, runs_of_peer in zip(PEERS, runs, strict=True)}
        if operation.startswith("prefix"):
            del contestants["dict"]  # a flat dict has no branches
        times = microseconds(contestants, rounds, calls)
        per_call = count if operation in ("leaf read", "leaf overwrite") else 1
        reference = times.get("dict", times["fuse-core"])
        cells = [
            f"{times[peer] / per_call:.3f} ({times[peer] / reference:.2f}x)" if peer in times else "-" for peer in PEERS
        ]
        print_row(f"{operation}, {count} keys", *cells)


def microseconds(contestants: dict[str, Run], rounds: int, repeat: int) -> dict[str, float]:
    """The median time of a call."""
    seconds = measure.take_turns(contestants, rounds, repeat=repeat)
    return {name: statistics.median(values) * 1e6 for name, values in seconds.items()}


def collating(rounds: int) -> None:
    """Print the time of collating 64 samples: NDicts for ours, flat dicts for PyTorch's."""
    mixed = [
        {f"data.image{j}": torch.rand(1, 16, 16) for j in range(4)}
        | {f"data.array{j}": np.random.rand(8) for j in range(4)}
        | {f"data.number{j}": i * j for j in range(4)}
        for i in range(64)
    ]
    tiny = [{f"data.value{j}": torch.rand(1) for j in range(40)} for _ in range(64)]
    print_header("collate, 64 samples of", "fuse-core, µs", "default_collate, µs", "ours / theirs")
    for name, flat in {"4 images, 4 arrays, 4 numbers": mixed, "40 tiny tensors": tiny}.items():
        nested = [NDict(sample) for sample in flat]
        both = {"ours": partial(collate, nested), "theirs": partial(default_collate, flat)}
        ours, theirs = microseconds(both, rounds, 5).values()
        print_row(name, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}")


def main(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    measure.print_versions("fuse-med-ml", "tensordict")
    print("\nMicroseconds an operation; in brackets as a multiple of the dict's, or else of fuse-core's.")
    print_header("operation", *PEERS)
    for count in (35, 200)[: 1 if arguments.quick else 2]:
        dictionaries(count, arguments.rounds)
    collating(arguments.rounds)
    _, added = measure.import_milliseconds("fuse_core", after="torch")
    print(f"\n`import fuse_core` adds {added:.0f} ms to `import torch`.")


if __name__ == "__main__":
    main(measure.parse(measure.options_of(__doc__, rounds=31, threads=1)))
