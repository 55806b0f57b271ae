"""What the benchmarks share: timing in turns, peak memory, options, versions and tables.

A script that nox runs with `python -I` does not find its neighbors, so each benchmark puts this folder on `sys.path`.
"""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Run = Callable[[], object]
Seconds = Mapping[str, list[float]]


def take_turns(
    contestants: Mapping[str, Run],
    rounds: int,
    *,
    repeat: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    before: Run = lambda: None,
) -> dict[str, list[float]]:
    """Measure contestants in turns, so that a busy machine slows all of them.

    Args:
        contestants: What to call, by name.
        rounds: How often each takes its turn; the order is reversed in every other round.
        repeat: Calls in a turn.
        clock: Returns seconds.
        before: Runs before each turn, outside the measured time.

    Returns:
        The seconds of one call, for each contestant and round.
    """
    for run in contestants.values():
        before()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name in list(contestants) if i % 2 == 0 else reversed(contestants):
            before()
            seconds[name].append(timeit.timeit(contestants[name], timer=clock, number=repeat) / repeat)
    return seconds


def gpu_clock() -> float:
    """The time at which the GPU has finished its work."""
    torch.cuda.synchronize()
    return time.perf_counter()


def ratio(seconds: Seconds, name: str, other: str) -> float:
    """The median over the rounds of one contestant's time divided by another's."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def peak_growth(run: Run, device: str) -> int:
    """Return by how many bytes a run raises the peak of the resident set (Linux), or of the GPU's allocator."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - allocated
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident = _peak_resident_set()
    run()
    return _peak_resident_set() - resident


def _peak_resident_set() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def in_fresh_process(*arguments: str) -> list[float]:
    """Run Python with these arguments in a new process; return the numbers on the last line that it prints."""
    # malloc returns freed blocks at once, so that the peak is of what is in use, not of what malloc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-I", "-W", "ignore", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [float(number) for number in done.stdout.strip().splitlines()[-1].split()]


def import_milliseconds(module: str, after: str, repeats: int = 5) -> tuple[float, float]:
    """Return how long importing `after` takes, and what importing `module` adds to it."""
    program = (
        f"import time; a = time.perf_counter(); import {after}; b = time.perf_counter(); "
        f"import {module}; print(1e3 * (b - a), 1e3 * (time.perf_counter() - b))"
    )
    first, added = zip(*(in_fresh_process("-c", program) for _ in range(repeats)), strict=True)
    return statistics.median(first), statistics.median(added)


def load_fuse_med_ml(name: str) -> ModuleType:
    """Load one module of fuse-med-ml from its file: importing its package imports everything it depends on."""
    path = importlib.metadata.distribution("fuse-med-ml").locate_file(f"{name.replace('.', '/')}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # another of its modules may import it
    spec.loader.exec_module(module)
    return module


def options_of(description: str, *, rounds: int, threads: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--quick", action="store_true", help="one round of few cases, to see that everything runs")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads and the seed."""
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def print_versions(*distributions: str, device: str = "cpu") -> None:
    """Print the versions and the machine."""
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", *distributions):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    threads = torch.get_num_threads()
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {threads} thread(s)"
    print(f"{', '.join(versions)}; {machine}")


def print_header(*columns: str) -> None:
    """Print the first two lines of a table, after an empty one."""
    print()
    print_row(*columns)
    print_row(*["---"] * len(columns))


def print_row(*cells: Any) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
