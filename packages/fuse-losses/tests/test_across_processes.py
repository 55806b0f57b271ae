"""Two processes with half of a batch each have the value and the gradient of one process with the whole batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import CASES, FIRST


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
    processes = [subprocess.Popen([*command, str(rank), str(folder)]) for rank in (0, 1)]
    try:
        for process in processes:
            process.wait(timeout=120)
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("split", FIRST)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(results, case, split):
    for result in results:
        for found, expected in result[case + split].values():
            torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-9)
        assert torch.tensor(result[case + split]["gradient"][1]).norm() > 0


def test_a_loss_across_processes_counts_the_voxels_of_all(results):
    for result in results:
        found, expected = result["counts"]["counted"]
        assert found == expected == [32, 32]
