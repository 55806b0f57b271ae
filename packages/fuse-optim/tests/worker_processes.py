"""Runs a worker in several processes, and judges it by the result files that it wrote.

How a process ends says nothing: the threads of a process group may abort it while it is torn down. So each worker
leaves with `os._exit` when all results are on disk, and nothing depends on an order of destruction.
"""

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROCESSES = 2
LIMIT = 240  # seconds, less than the limit of a test


def results_of(program: Path, folder: Path) -> list[Any]:
    """Run `python program folder`, which calls `run_workers`; return the result of each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, timeout=LIMIT, env=environment
    )
    missing = [path.name for path in result_files(folder) if not path.exists()]
    assert not missing, f"{missing} are missing:\n{done.stdout}\n{done.stderr}"
    return [torch.load(path, weights_only=False) for path in result_files(folder)]


def run_workers(worker: Callable[[int, Path], Any], folder: Path) -> None:
    """Run `worker(rank, folder)` in each process; its result goes to a file. Forked, so that torch is loaded once."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(worker, rank, folder)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def result_files(folder: Path) -> list[Path]:
    return [folder / f"{rank}.pt" for rank in range(PROCESSES)]


def _run(worker: Callable[[int, Path], Any], rank: int, folder: Path) -> None:
    faulthandler.dump_traceback_later(LIMIT - 10, exit=True)
    torch.set_num_threads(1)
    result = worker(rank, folder)
    path = result_files(folder)[rank]
    with open(path.with_suffix(".part"), "wb") as file:
        torch.save(result, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".part"), path)
    # The other process may still be talking to this one.
    while not all(path.exists() for path in result_files(folder)):
        time.sleep(0.01)
    os._exit(0)
