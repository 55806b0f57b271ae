"""Trains, validates, tests and predicts on two processes; writes the results to the folder that it is given.

test_distributed.py runs it once for each process.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.utilities import dim_zero_cat

from fuse_core import NDict, collate
from fuse_lightning import LightningModuleDefault, MetricDefault, PredictionsToFile

SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")  # which fully_shard calls, and torch 2.6 lacks


class Model(nn.Module):
    """A linear layer with a batch normalization, which distributed models synchronize before each forward."""

    reads, writes = ("data.x",), ("model.y",)

    def __init__(self, norm=True):
        super().__init__()
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch_dict):
        batch_dict["model.y"] = self.linear(self.norm(batch_dict["data.x"]))
        return batch_dict


class Loss(nn.Module):
    reads, writes = ("model.y", "data.y"), ()

    def forward(self, batch_dict):
        return nn.functional.mse_loss(batch_dict["model.y"], batch_dict["data.y"])


class Kept(Metric):
    """Keeps rows and labels in lists, as AUROC does; gathering them needs tensors of equal rank and dtype.

    With `dist_reduce_fx=None`, as in retrieval metrics, those of each batch are gathered alone.
    """

    def __init__(self, dist_reduce_fx="cat"):
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx=dist_reduce_fx)
        self.add_state("labels", [], dist_reduce_fx=dist_reduce_fx)

    def update(self, rows, labels):
        self.rows.append(rows)
        self.labels.append(labels)

    def compute(self):
        return (dim_zero_cat(self.rows).sum(1) * (1 + dim_zero_cat(self.labels))).sum()


class BadOnOneProcess(Loss):
    """Not finite for the samples of the second process in its first step; sample 3 is one of them."""

    def forward(self, batch_dict):
        bad = torch.tensor([sample == 3 for sample in batch_dict["data.sample_id"]]).any()
        return super().forward(batch_dict) * torch.where(bad, torch.nan, 1.0)


def loader(count, batch_size=4, collate_fn=collate):
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 3, generator=generator)
    samples = [
        # Of the two processes, the first sees whole numbers in the lists, the second fractions.
        NDict(
            {
                "data": {
                    "sample_id": i,
                    "x": x,
                    "y": x.sum(0, keepdim=True),
                    "label": i % 3,
                    "list": [i / 2] if i % 2 else [i // 2],
                }
            }
        )
        for i, x in enumerate(inputs)
    ]
    return torch.utils.data.DataLoader(samples, batch_size=batch_size, collate_fn=collate_fn)


class OfOneProcess(torch.utils.data.IterableDataset):
    """Three samples of the first process; the second has none."""

    def __iter__(self):
        return iter(loader(3).dataset if int(os.environ.get("LOCAL_RANK", 0)) == 0 else [])


def make_module(model_dir, norm=True, **options):
    torch.manual_seed(0)  # the model is made here, and not passed, so that it does not depend on what ran before
    defaults = {
        "model_dir": model_dir,
        "model": Model(norm),
        "losses": {"mse": Loss()},
        "optimizers_and_lr_schs": lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
    }
    for mode in ("train", "validation", "test"):
        metric = MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError())
        defaults[f"{mode}_metrics"] = {"mse": metric}
    return LightningModuleDefault(**defaults | options)


def make_trainer(folder, processes, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**defaults | options)


def without_samples(batch_dict):
    return batch_dict | {key: batch_dict[key][:0] for key in ("data.x", "data.label")}


def measure(folder, processes):
    """What is logged and predicted, with loaders that two processes cannot divide evenly."""
    results = {}
    for name, count in (("uneven_last_batch", 10), ("padded", 11)):
        trainer = make_trainer(folder, processes)
        loaders = {"first": loader(count), "second": loader(count + 3)}
        logged = trainer.validate(make_module(folder), loaders, verbose=False)
        results[f"validate_{name}"] = {key: value for part in logged for key, value in part.items()}
        (results[f"test_{name}"],) = trainer.test(make_module(folder), loader(count), verbose=False)
    for count in (1, 3, 9):  # with batches of 4, the second process has repetitions alone, or fewer samples or batches
        metrics = {
            str(reduction): MetricDefault(pred="data.x", target="data.label", metric=Kept(reduction))
            for reduction in ("cat", None)
        }
        module = make_module(folder, norm=False, validation_metrics=metrics)
        (logged,) = make_trainer(folder, processes).validate(module, loader(count), verbose=False)
        results[f"few_{count}"] = logged
    of_one = torch.utils.data.DataLoader(OfOneProcess(), batch_size=2, collate_fn=collate)
    (results["few_0"],) = make_trainer(folder, processes).validate(module, of_one, verbose=False)
    kept = MetricDefault(pred="data.x", target="data.label", metric=Kept(), preprocess_func=without_samples)
    module = make_module(folder, norm=False, validation_metrics={"kept": kept})
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there are none
        for _ in range(2):
            (results["no_samples"],) = make_trainer(folder, processes).validate(module, loader(3), verbose=False)
    trainer = make_trainer(folder, processes)
    trainer.fit(make_module(folder, norm=False, log_unit="epoch"), loader(10))
    results["train"] = {key: value.item() for key, value in trainer.callback_metrics.items()}
    writers = [PredictionsToFile(folder / f"predictions_{processes}.{suffix}") for suffix in ("csv", "parquet")]
    trainer = make_trainer(folder, processes, callbacks=writers)
    trainer.predict(make_module(folder, prediction_keys=["model.y", "data.list"]), loader(11), return_predictions=False)
    return results


def skip(folder):
    """A step on two processes of which one's loss is not finite: every process's weights before and after."""
    module = make_module(
        folder,
        norm=False,
        losses={"mse": BadOnOneProcess()},
        on_nonfinite="skip",
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=1.0),
    )
    before = weights_of_all(module) if torch.distributed.is_initialized() else None
    trainer = make_trainer(folder, 2)
    trainer.fit(module, loader(8))
    return {
        "before": before,
        "after": weights_of_all(module),
        "loss": trainer.callback_metrics["train.losses.mse"].item(),
    }


def weights_of_all(module):
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    everyones = [torch.empty_like(weights) for _ in range(2)]
    torch.distributed.all_gather(everyones, weights)
    return [one.tolist() for one in everyones]


class Sharded(LightningModuleDefault):
    """Its model's parameters are shared out between the processes (FSDP)."""

    def configure_model(self):
        if not hasattr(self.model, "reshard"):
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])


def shard(folder):
    """Training with FSDP, of plain dicts, which is what some strategies make of batches."""
    torch.manual_seed(0)
    module = Sharded(
        model_dir=folder,
        model=Model(norm=False),
        losses={"mse": Loss()},
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
        best_epoch_source={"monitor": "validation.losses.mse"},
        save_model=True,
    )
    trainer = make_trainer(folder, 2, strategy=ModelParallelStrategy())
    trainer.fit(module, loader(12, collate_fn=lambda samples: dict(collate(samples))), loader(7))
    return {
        "loss": trainer.callback_metrics["validation.losses.mse"].item(),
        "parameters": sorted({type(parameter).__name__ for parameter in module.model.parameters()}),
    }


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    store = f"file://{folder}/store"  # Lightning would take a port, which another process may take first
    torch.distributed.init_process_group("gloo", init_method=store, rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    results = {
        "two": measure(folder, 2),
        "skip": skip(folder),
        "sharded": shard(folder / "sharded") if SHARDS_ON_CPU else None,
    }
    if torch.distributed.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    sys.stderr.flush()
    os._exit(0)  # without destroying the process group, whose threads may abort


if __name__ == "__main__":
    main()
