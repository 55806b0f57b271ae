"""Ctrl-C, SIGTERM and Slurm's requeue signal."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")

CALLBACK = '''
class Signal(pl.Callback):
    """Sends a signal to this process in the second batch of an epoch."""
    def __init__(self, name: str = "SIGTERM", epoch: int = 1, batch: int = 1):
        self.signal, self.epoch, self.batch = getattr(signal, name), epoch, batch
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            os.kill(os.getpid(), self.signal)
    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        os.kill(os.getpid(), self.signal)
'''


@pytest.fixture
def with_signal(edited, project):
    """Adds the callback that sends a signal."""

    def add(**arguments):
        edited("trainer.callbacks", [{"class_path": "points.Signal", "init_args": arguments}])
        Path("points.py").write_text(Path("points.py").read_text() + CALLBACK)

    return add


@pytest.fixture(autouse=True)
def signal_handlers():
    """Lightning restores only the handlers that it has replaced."""
    numbers = [signal.SIGTERM, signal.SIGUSR1]
    previous = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, previous, strict=True):
        signal.signal(number, handler)


def test_sigterm_ends_with_143_and_a_checkpoint_of_the_batch(with_signal, run_command, capsys):
    with_signal(batch=0)
    assert run_command("fit", "--trainer.limit_train_batches", "2") == 143
    assert "Terminated. To continue from the last checkpoint:\n  fuse-lightning fit --config run/config.yaml" in (
        capsys.readouterr().out
    )
    assert torch.load("run/last.ckpt", weights_only=True)["global_step"] == 3
    arguments = ["--ckpt_path", "last", "--trainer.callbacks", "null", "--trainer.limit_train_batches", "2"]
    assert main(["fit", "--config", "run/config.yaml", *arguments]) == 0
    assert torch.load("run/last.ckpt", weights_only=True)["global_step"] == 4


def test_sigterm_before_the_first_step_leaves_no_run_behind(with_signal, run_command, capsys):
    with_signal(epoch=0, batch=0)
    optimizer = "--model.init_args.optimizers_and_lr_schs.init_args.optimizer={class_path: torch.optim.SGD}"
    assert run_command("fit", "--trainer.accumulate_grad_batches", "2", optimizer) == 143
    assert "To continue" not in capsys.readouterr().out
    assert list(Path("run").iterdir()) == []


def test_sigterm_during_a_validation_keeps_the_checkpoint_before_it(with_signal, run_command):
    with_signal(batch=1)  # the last one of the epoch: the signal ends the validation that follows
    assert run_command("fit") == 143
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (0, 2)


def test_sigterm_ends_the_program_with_143(with_signal):
    with_signal()
    command = [sys.executable, "-m", "fuse_lightning.cli", "fit", "--config", "run.yaml"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 143


@pytest.mark.parametrize("array", [False, True])
def test_slurms_signal_requeues_the_job_which_then_continues(with_signal, run_command, monkeypatch, project, array):
    scontrol = project / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > requeued.txt\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with_signal(name="SIGUSR1")
    assert run_command("fit") == 143
    assert Path("requeued.txt").read_text() == f"requeue {'12_3' if array else '17'}\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_command("fit", "--trainer.callbacks", "null") == 0
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 1
