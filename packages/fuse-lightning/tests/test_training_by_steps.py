"""What a run shows, logs and saves between the ends of epochs."""

import csv

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import Subset
from torchmetrics import MeanSquaredError

from fuse_core import collate
from fuse_lightning import DataModuleDefault, LightningModuleDefault, MetricDefault, resumable_loader
from fuse_models import ModelWrapSeqToDict

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


class Bar(pl.callbacks.ProgressBar):
    """Keeps what it would show."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.shown.append(self.get_metrics(trainer, pl_module))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_losses_are_logged_by_steps_as_means_since_the_last_log(
    make_module, make_trainer, make_loader, tmp_path, accumulated
):
    module = make_module(
        optimizers_and_lr_schs=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
        validation_metrics={"mse": MetricDefault(pred="model.y", target="data.y", metric=MeanSquaredError())},
        progress_bar_metrics=["validation.metrics.mse"],
    )
    bar = Bar()
    trainer = make_trainer(
        logger=CSVLogger(tmp_path, name="logs"),
        callbacks=[bar],
        enable_progress_bar=True,
        log_every_n_steps=2,
        max_epochs=2,
        accumulate_grad_batches=accumulated,
    )
    loader = make_loader(20, batch_size=4 // accumulated)
    trainer.fit(module, loader, loader)
    with (tmp_path / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train.losses.mse_step"]]
    assert [int(row["step"]) for row in rows] == [1, 3, 5, 7, 9]
    per_step = [
        nn.functional.mse_loss(module.model.model(batch["data.x"]), batch["data.y"]).item() for batch in make_loader(20)
    ]
    expected = [(per_step[0] + per_step[1]) / 2, (per_step[2] + per_step[3]) / 2, per_step[0]]
    assert [float(row["train.losses.mse_step"]) for row in rows[:3]] == pytest.approx(expected, rel=1e-5)
    # The last step's value is shown after the bar has drawn that step.
    assert bar.shown[-1]["loss"] == pytest.approx(sum(per_step[1:3]) / 2, rel=1e-5)
    assert "validation.metrics.mse" in bar.shown[-1]


def test_an_endless_stream_is_logged_saved_and_resumed_by_steps(make_module, make_trainer, make_loader, tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from make_loader(20).dataset

    def fit(steps, checkpoint=None):
        stream = torch.utils.data.DataLoader(Stream(), batch_size=4, collate_fn=collate)
        module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
        trainer = make_trainer(max_epochs=-1, max_steps=steps, val_check_interval=3, log_every_n_steps=1)
        with pytest.warns(UserWarning, match="cannot continue there: .* Use fuse_lightning.resumable_loader"):
            trainer.fit(module, stream, make_loader(4), ckpt_path=checkpoint)
        return trainer

    trainer = fit(7)
    assert {"train.losses.mse_step", "train.losses.total_loss_step"} < set(trainer.callback_metrics)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7
    assert "validation.losses.mse" in (tmp_path / "epoch_summary_validation.losses.mse.txt").read_text()
    assert fit(10, tmp_path / "last.ckpt").global_step == 10


@pytest.mark.parametrize("when", [{"save_every_n_steps": 2}, {"save_every_minutes": 0}])
def test_the_last_checkpoint_is_also_written_by_steps_or_time(make_module, make_trainer, make_loader, tmp_path, when):
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                raise RuntimeError("killed")

    data = DataModuleDefault(make_loader(20).dataset, Subset(make_loader(4).dataset, range(4)), batch_size=4)
    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(callbacks=[Stop()]).fit(make_module(**when), data)
    steps = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert steps == (2 if "save_every_n_steps" in when else 3)


def test_a_monitor_of_an_earlier_validation_is_known_when_an_epoch_is_resumed_inside(
    make_module, make_trainer, make_loader, tmp_path
):
    def fit(max_steps, **options):
        stopping = pl.callbacks.EarlyStopping("validation.losses.mse")
        trainer = make_trainer(max_epochs=-1, max_steps=max_steps, callbacks=[stopping])
        loader = resumable_loader(make_loader(16).dataset, batch_size=4, seed=0)
        trainer.fit(make_module(save_every_n_steps=1), loader, make_loader(8), **options)
        return {name: value.item() for name, value in trainer.callback_metrics.items()}

    whole = fit(6)  # four steps with a validation, then two of an epoch without
    fit(5)
    resumed = fit(6, ckpt_path=tmp_path / "last.ckpt")
    assert resumed == whole
    assert "validation.losses.mse" in resumed


def test_with_two_optimizers_steps_and_epochs_are_logged_on_one_axis(make_trainer, make_loader, mse_loss, tmp_path):
    class Manual(LightningModuleDefault):
        automatic_optimization = False

        def training_step(self, batch_dict, batch_idx):
            total = super().training_step(batch_dict, batch_idx)
            self.manual_backward(total)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
            return total

    module = Manual(
        model_dir=None,
        model=ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=["data.x"], model_outputs=["model.y"]),
        losses={"mse": mse_loss},
        optimizers_and_lr_schs=lambda module: [torch.optim.SGD([one], lr=0.01) for one in module.parameters()],
    )
    make_trainer(logger=CSVLogger(tmp_path, name="logs"), log_every_n_steps=4).fit(module, make_loader(16))
    with (tmp_path / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = {name: [int(row["step"]) for row in rows if row[name]] for name in rows[0] if "losses.mse" in name}
    assert steps == {"train.losses.mse_step": [1, 3], "train.losses.mse": [3]}
