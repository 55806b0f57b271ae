"""Trains in two processes and saves the results: `python ddp_training.py FOLDER`."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

sys.path.append(str(Path(__file__).parents[1]))

from worker_processes import PROCESSES, run_workers

SIZE = 2  # of a micro-batch in a process
RHO, RATE = 0.5, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def samples() -> TensorDataset:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TensorDataset(inputs, inputs.prod(1, keepdim=True) + 1)


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


synchronized: list[int] = []  # not in the module, where a repeated pass would leave no trace of it


class Regression(pl.LightningModule):
    """Also counts how often gradients are synchronized, in the one bucket that the network's gradients fill."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.network = network()
        self.kind = kind

    def on_fit_start(self) -> None:
        def count(_: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
            synchronized.append(bucket.index())
            work = torch.distributed.all_reduce(bucket.buffer() / PROCESSES, async_op=True)
            return work.get_future().then(lambda done: done.value()[0])

        self.trainer.strategy.model.register_comm_hook(None, count)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return F.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        if self.kind == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), max_iter=4, line_search_fn="strong_wolfe")
        local = {"perturbation": "local", "model": self.trainer.strategy.model} if self.kind == "local" else {}
        return SAM(self.parameters(), torch.optim.SGD, rho=RHO, lr=RATE, momentum=0.9, **local)


def train(kind: str, accumulate: int, rank: int) -> dict[str, Any]:
    synchronized.clear()
    model = Regression(kind)
    trainer = pl.Trainer(
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[OptimizerClosureCallback()],
        accelerator="cpu",
        devices=PROCESSES,
        strategy="ddp",
        use_distributed_sampler=False,  # which would shuffle
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    sampler = DistributedSampler(samples(), PROCESSES, rank, shuffle=False)
    trainer.fit(model, DataLoader(samples(), batch_size=SIZE, sampler=sampler))
    return {"weights": weights(model), "synchronized": len(synchronized), "steps": trainer.global_step}


def train_all(rank: int, folder: Path) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    os.environ["LOCAL_RANK"] = str(rank)
    store = f"file://{folder}/store"  # not a port, which another process could take meanwhile
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    runs = [(kind, accumulate) for kind in ("sam", "lbfgs", "local") for accumulate in (1, 3)]
    return {f"{kind}-{accumulate}": train(kind, accumulate, rank) for kind, accumulate in runs}


if __name__ == "__main__":
    run_workers(train_all, Path(sys.argv[1]))
