"""Models under DistributedDataParallel, in processes of their own that are judged by the files that they write."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker

SECONDS = 120


@pytest.mark.parametrize("name", ["multistream_of_shared_weights", "siamese", "siamese_in_two_passes"])
def test_weights_that_are_used_twice_get_the_mean_gradient_of_all_processes(name, tmp_path):
    run = [sys.executable, ddp_worker.__file__, name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    workers = [subprocess.Popen([*run, str(rank), tmp_path], **pipes) for rank in range(ddp_worker.WORLD_SIZE)]
    try:
        printed = [worker.communicate(timeout=SECONDS)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    model = ddp_worker.make(name)
    (sum(ddp_worker.loss_of(model, rank) for rank in range(ddp_worker.WORLD_SIZE)) / ddp_worker.WORLD_SIZE).backward()
    for rank in range(ddp_worker.WORLD_SIZE):
        results = tmp_path / f"gradients_{rank}.pt"
        assert results.exists(), printed[rank]
        torch.testing.assert_close(torch.load(results), [parameter.grad for parameter in model.parameters()])
