"""A small regression for tests that train, processes that train together, and a full disk."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import MeanSquaredError

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: looking for garbage in it again and again took a tenth of the time


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, also if the parent process ignores it; Lightning leaves it ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def make_loader():
    """Samples whose target is the sum of three inputs, plus an offset."""

    def make(count, batch_size=4, offset=0.0, **options):
        inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
        samples = [
            NDict({"data": {"sample_id": i, "x": x, "y": x.sum(0, keepdim=True) + offset}})
            for i, x in enumerate(inputs)
        ]
        return torch.utils.data.DataLoader(samples, batch_size=batch_size, collate_fn=collate, **options)

    return make


@pytest.fixture
def mse_loss():
    return LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)


@pytest.fixture
def mse_metric():
    return lambda: MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError())


@pytest.fixture
def make_module(tmp_path, mse_loss):
    """A LightningModuleDefault of a linear layer."""

    def make(**options):
        torch.manual_seed(0)
        defaults = {
            "model_dir": tmp_path,
            "model": ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"]),
            "losses": {"mse": mse_loss},
            "optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=0.05),
        }
        return LightningModuleDefault(**defaults | options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """A quiet trainer on the CPU."""

    def make(**options):
        defaults = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        return pl.Trainer(**defaults | options)

    return make


@pytest.fixture(scope="session")
def run_processes(tmp_path_factory):
    """Starts a script in several processes that Lightning takes for those of one DDP run, and waits for them."""

    def run(script, *arguments, processes=2, seconds=240, returncode=0):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "NODE_RANK": "0",
        }
        command = [sys.executable, str(script), *map(str, arguments)]
        output = tmp_path_factory.mktemp("output")
        started = []
        for rank in range(processes):
            with (output / f"{rank}.txt").open("w") as file:
                variables = environment | {"LOCAL_RANK": str(rank)}
                started.append(subprocess.Popen(command, env=variables, stdout=file, stderr=file))
        end = time.monotonic() + seconds
        try:
            while any(one.poll() is None for one in started) and time.monotonic() < end:
                if any(one.returncode not in (None, returncode) for one in started):
                    end = min(end, time.monotonic() + 5)  # the others wait for it
                time.sleep(0.05)
        finally:
            for one in started:
                one.kill()
                one.wait()
        texts = [(output / f"{rank}.txt").read_text() for rank in range(processes)]
        assert [one.returncode for one in started] == [returncode] * processes, "\n".join(texts)
        return texts

    return run


@pytest.fixture
def small_files():
    """A limit to the size of files, which looks to the writer like a disk that is full."""
    resource = pytest.importorskip("resource", reason="only POSIX systems limit the size of files")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)
