"""Models under DistributedDataParallel, in processes of their own that are judged by the files that they write."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker

SECONDS = 120


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """The gradients of each model, in each of two processes that train them all."""
    folder = tmp_path_factory.mktemp("gradients")
    run = [sys.executable, ddp_worker.__file__]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    workers = [subprocess.Popen([*run, str(rank), folder], **pipes) for rank in range(ddp_worker.WORLD_SIZE)]
    try:
        printed = [worker.communicate(timeout=SECONDS)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    files = [folder / f"gradients_{rank}.pt" for rank in range(ddp_worker.WORLD_SIZE)]
    assert all(file.exists() for file in files), printed
    return [torch.load(file) for file in files]


@pytest.mark.parametrize("name", ddp_worker.MODELS)
def test_weights_that_are_used_twice_get_the_mean_gradient_of_all_processes(name, gradients):
    model = ddp_worker.make(name)
    (sum(ddp_worker.loss_of(model, rank) for rank in range(ddp_worker.WORLD_SIZE)) / ddp_worker.WORLD_SIZE).backward()
    for found in gradients:
        torch.testing.assert_close(found[name], [parameter.grad for parameter in model.parameters()])
