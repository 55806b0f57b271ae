"""Trains in forked processes that are killed at random moments, resumes, and compares with an uninterrupted training.

Arguments: a folder, the number of kills, which of them are done here (the first, and every how many), and optionally
variants. Writes `kills.json` with the kills and the differences; run by test_resume_after_kill.py. One process imports
everything, so that a training takes little time.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torchmetrics import MeanSquaredError, SpearmanCorrCoef

from fuse_core import NDict
from fuse_lightning import DataModuleDefault, LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict
from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback

VARIANTS = {
    "sam, accumulated, workers": {"sam": True, "accumulate_grad_batches": 2, "num_workers": 2},
    "processes, ema, workers": {"devices": 2, "strategy": "ddp", "ema": True, "num_workers": 2},
    "plateau": {"plateau": "epoch"},
    "no validation, steps": {"validation": False, "max_epochs": -1, "max_steps": 19},
    "adam": {},
    "workers": {"num_workers": 2},
    "sam": {"sam": True},
    "ema": {"ema": True},
    "accumulated": {"accumulate_grad_batches": 2},
    "processes": {"devices": 2, "strategy": "ddp"},
    "processes, accumulated": {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": 2},
    "processes, sam": {"devices": 2, "strategy": "ddp", "sam": True},
    "steps": {"max_epochs": -1, "max_steps": 19},
    "no validation": {"validation": False},
    "validation inside epochs": {"val_check_interval": 2, "sam": True},
}


class Noisy(torch.utils.data.Dataset):
    """Samples with random augmentation from all three generators."""

    def __init__(self, count):
        self.inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        x = self.inputs[i] + 0.1 * torch.randn(3) + random.random() / 100
        return NDict({"data": {"sample_id": i, "x": x, "y": x.sum(0, keepdim=True)}})


class Record(pl.Callback):
    """Appends what each step of training was given."""

    def __init__(self, folder):
        self.path = folder / "batches.jsonl"

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        ids = [int(one) for one in batch["data.sample_id"]]
        value = float(batch["data.x"].sum()).hex()
        with self.path.open("a") as file:
            file.write(json.dumps([trainer.global_rank, trainer.current_epoch, batch_idx, ids, value]) + "\n")


class Keep(pl.Callback):
    """Keeps the last checkpoint of each step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, *_):
        if (self.folder / "last.ckpt").exists():
            shutil.copy(self.folder / "last.ckpt", self.folder / f"kept-{trainer.global_step}.ckpt")


def train(folder, num_workers=0, sam=False, ema=False, plateau=None, validation=True, keep=False, **options):
    """A training of 5 epochs of 4 batches, which goes on from the last checkpoint."""
    pl.seed_everything(1, verbose=False)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
    monitor = f"{'validation' if validation else 'train'}.losses.mse"
    metrics = {
        "mse": MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError()),
        "rank": MetricDefault(pred="model.y", target="data.y", metric=SpearmanCorrCoef()),
    }

    def optimizer(module):
        adam = torch.optim.Adam(module.parameters(), lr=0.02)
        chosen = SAM(module.parameters(), torch.optim.Adam, rho=0.1, lr=0.02) if sam else adam
        scheduler = torch.optim.lr_scheduler.StepLR(chosen, 1, gamma=0.8)
        if plateau is None:
            return {"optimizer": chosen, "lr_scheduler": scheduler}
        # The loss falls by less than half, so the rate falls.
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(chosen, factor=0.8, patience=0, threshold=0.5)
        # The loss of training is known after each step, that of validation after two steps or an epoch.
        by_steps = {"frequency": 1 if "train" in monitor else 2, "strict": False}
        by_steps |= {"monitor": monitor + "_step" * ("train" in monitor)}
        choice = {"interval": plateau, "monitor": monitor} | (by_steps if plateau == "step" else {})
        return {"optimizer": chosen, "lr_scheduler": {"scheduler": scheduler, **choice}}

    module = LightningModuleDefault(
        model_dir=folder,
        model=ModelWrapSeqToDict(model=net, model_inputs=["data.x"], model_outputs=["model.y"]),
        losses={"mse": LossDefault(pred="model.y", target="data.y", callable=nn.functional.mse_loss)},
        train_metrics=metrics,
        validation_metrics=metrics,
        optimizers_and_lr_schs=optimizer,
        best_epoch_source={"monitor": monitor},
        save_every_n_steps=1,
    )
    callbacks = [Record(folder), pl.callbacks.EarlyStopping(monitor, patience=9)]
    if ema:
        callbacks.append(EMAWeightAveraging(decay=0.9))
    if keep:
        callbacks.append(Keep(folder))
    if sam and "accumulate_grad_batches" in options:
        callbacks.append(OptimizerClosureCallback())
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 5, **options},
    )
    data = DataModuleDefault(Noisy(15), Noisy(5) if validation else None, batch_size=4, num_workers=num_workers)
    last = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=last if last.exists() else None)
    if not trainer.is_global_zero:
        return
    values = {name: float(value).hex() for name, value in sorted(trainer.callback_metrics.items())}
    part = folder / "part.pt"
    optimizer_state = trainer.optimizers[0].state_dict()["state"]
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    torch.save(
        {"weights": dict(module.state_dict()), "optimizer": optimizer_state, "rates": rates, "values": values}, part
    )
    part.rename(folder / "result.pt")


def use_two_processes():
    """Fork the second process of a distributed training, in the process group of the first."""
    store = tempfile.mkdtemp()
    rank = int(os.fork() == 0)
    os.environ.update(
        {"TORCHELASTIC_RUN_ID": "kill", "WORLD_SIZE": "2", "GROUP_RANK": "0", "RANK": str(rank)}
        | {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    )
    # Without it, Lightning would take a port, which another process may take first.
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=2)


def fork(folder, variant, delay=None):
    """Train in a process of its own, which is killed after a delay; how long it took, and whether it ended."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            os.setpgrp()
            if "devices" in VARIANTS[variant]:
                use_two_processes()
            train(folder, **VARIANTS[variant])
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(code)
    if delay is not None:
        time.sleep(delay)
        for target in (lambda: os.killpg(child, signal.SIGKILL), lambda: os.kill(child, signal.SIGKILL)):
            try:
                target()
            except (ProcessLookupError, PermissionError):
                continue
    _, status = os.waitpid(child, 0)
    if delay is None and status != 0:
        raise RuntimeError((folder / "output.txt").read_text()[-3000:])
    return time.monotonic() - start


def batches(folder):
    """The last time that each batch was trained on."""
    lines = [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines() if line.endswith("]")]
    return {tuple(place): (ids, value) for *place, ids, value in lines}


def equal(one, other):
    if isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in other)
    return one == other


def differences(folder, reference, ended):
    """What a resumed training has otherwise than the reference."""
    one, other = (torch.load(path / "result.pt", weights_only=True) for path in (folder, reference))
    found = [f"weights {key}" for key, value in other["weights"].items() if not equal(one["weights"][key], value)]
    found += [key for key in ("optimizer", "rates") if not equal(one[key], other[key])]
    for key, value in other["values"].items():
        # A training that was killed after its last checkpoint, or its last validation, has no more of them to log.
        nothing_left = ended or key.startswith("validation")
        if one["values"].get(key, value if nothing_left else None) != value:
            found.append(f"{key} {one['values'].get(key)}")
    mine, theirs = batches(folder), batches(reference)
    return found + [f"batch {key}" for key in theirs if mine.get(key) != theirs[key]]


def main():
    folder = Path(sys.argv[1])
    kills, first, every = map(int, sys.argv[2:5])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = []
    references = {}
    variants = sys.argv[5:] or list(VARIANTS)
    for number in range(first, kills, every):
        chance = random.Random(number)
        variant = variants[number % len(variants)]
        if variant not in references:
            reference = folder / f"reference {variant}"
            reference.mkdir()
            seconds = fork(reference, variant)
            last_step = torch.load(reference / "last.ckpt", weights_only=True)["global_step"]
            references[variant] = (reference, seconds, last_step)
        reference, seconds, last_step = references[variant]
        run = folder / f"run {number}"
        run.mkdir()
        delays = [chance.uniform(0, seconds) for _ in range(chance.choice((1, 2)))]
        for delay in delays:
            fork(run, variant, delay)
            (run / "result.pt").unlink(missing_ok=True)
        last = run / "last.ckpt"
        step = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
        fork(run, variant)
        found = differences(run, reference, ended=step == last_step)
        results.append({"number": number, "variant": variant, "delays": delays, "step": step, "different": found})
        shutil.rmtree(run)
    (folder / "kills.json").write_text(json.dumps(results))
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
