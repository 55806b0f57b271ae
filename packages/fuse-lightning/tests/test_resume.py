"""A run that is killed and resumed equals one that never was, bit by bit."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fuse_lightning import ModelEpochSummary

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")
SCRIPT = Path(__file__).with_name("resume_run.py")


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("resume_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folders of runs that were killed in the middle of their fourth epoch, by optimizer."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    folders, processes = {}, {}
    for optimizer in ("adam", "sam"):
        folders[optimizer] = tmp_path_factory.mktemp(optimizer)
        command = [sys.executable, str(SCRIPT), str(folders[optimizer]), optimizer, "kill"]
        processes[optimizer] = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    for process in processes.values():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, errors
    return folders


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("optimizer", ["adam", "sam"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(train, killed, tmp_path, optimizer):
    torch.set_num_threads(1)
    folder = killed[optimizer]
    recorded = len((folder / "epochs.jsonl").read_text().splitlines())
    assert recorded == 4  # the start of the fourth epoch is the last thing that happened
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2

    expected, expected_trainer = train(tmp_path, optimizer)
    resumed, trainer = train(folder, optimizer, resume=True)

    state, expected_state = resumed.state_dict(), expected.state_dict()
    assert "losses.by_forward.loss.forwards" in state
    assert equal(dict(state), dict(expected_state))
    assert equal(trainer.optimizers[0].state_dict(), expected_trainer.optimizers[0].state_dict())
    assert equal(dict(trainer.callback_metrics), dict(expected_trainer.callback_metrics))

    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    expected_lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert lines[recorded]["epoch"] == 3
    assert lines[recorded + 1 :] == expected_lines[4:]

    def best(trainer):
        (summary,) = (one for one in trainer.callbacks if isinstance(one, ModelEpochSummary))
        return summary.best_epoch, {k: v for k, v in summary.best_values.items() if k != "epoch seconds"}

    assert best(trainer) == best(expected_trainer)
    assert equal(
        torch.load(folder / "best_epoch.ckpt", weights_only=True)["state_dict"],
        torch.load(tmp_path / "best_epoch.ckpt", weights_only=True)["state_dict"],
    )
