import errno
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

from fuse_lightning import ModelEpochSummary
from fuse_lightning.model_epoch_summary import learning_rates


def test_the_table_shows_best_and_current_epoch_sorted():
    summary = ModelEpochSummary(None, monitor="b", mode="max")
    summary.best_epoch, summary.best_values = 3, {"b": 0.9, "a": 1.0}
    assert summary.table(5, {"b": 0.5, "c": 2.0}).splitlines() == [
        "|     | best epoch (3) | current epoch (5) |",
        "|:----|---------------:|------------------:|",
        "| a   |          1.000 |                 - |",
        "| b * |         0.9000 |            0.5000 |",
        "| c   |              - |             2.000 |",
        "",
        "* the best epoch has the largest b",
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("loss", 0.123456, "0.1235"),
        ("loss", 12345.6, "1.235e+04"),
        ("loss", 1234.56, "1235"),
        ("loss", 0.0000123456, "1.235e-05"),
        ("loss", -0.5, "-0.5000"),
        ("loss", 0.0, "0.000"),
        ("loss", math.nan, "nan"),
        ("loss", -math.inf, "-inf"),
        ("lr-Adam/pg1", 0.001, "0.001"),
        ("lr-Adam", 3e-5, "3e-05"),
        ("epoch seconds", 12.3456, "12.3"),
        ("epoch seconds", 3601.2, "3601"),
    ],
)
def test_numbers_have_no_more_digits_than_they_need(name, value, shown):
    row = ModelEpochSummary(None, monitor="x").table(0, {name: value}).splitlines()[2]
    assert row.split() == ["|", *name.split(), "|", "-", "|", shown, "|"]


def test_before_any_best_epoch_there_is_none():
    assert "best epoch |" in ModelEpochSummary(None, monitor="x").table(0, {"y": 1.0})


class FakeTrainer:
    def __init__(self, epoch, **metrics):
        self.current_epoch = epoch
        self.callback_metrics = metrics
        self.is_global_zero = True
        self.sanity_checking = False
        self.fast_dev_run = False
        self.state = pl.trainer.states.TrainerState(fn=pl.trainer.states.TrainerFn.FITTING)
        self.num_training_batches = 10
        self.limit_val_batches = 1.0


def run_epochs(summary, *epochs):
    for epoch, metrics in enumerate(epochs):
        trainer = FakeTrainer(epoch, **metrics)
        summary.on_validation_end(trainer, None)
        summary.on_train_epoch_end(trainer, None)


def test_nan_is_never_the_best_epoch():
    summary = ModelEpochSummary(None, monitor="x")
    run_epochs(summary, {"x": float("nan")}, {"x": 2.0}, {"x": float("nan")}, {"x": 3.0})
    assert summary.best_epoch == 1


def test_values_of_an_earlier_validation_are_not_shown_as_current(capsys):
    summary = ModelEpochSummary(None, monitor="validation.x")
    run_epochs(summary, {"validation.x": 2.0, "train.x": 1.0})
    capsys.readouterr()
    summary.on_train_epoch_end(FakeTrainer(1, **{"validation.x": 2.0, "train.x": 0.5}), None)
    assert "| x * |      1.000 |           2.000 | 0.5000 |          - |" in capsys.readouterr().out
    assert summary.best_epoch == 0


@pytest.mark.parametrize("name", ["val_loss", "val/loss", "val.near.loss", "valid_loss", "validation.losses.mse"])
def test_values_of_validation_are_known_by_the_usual_names(name):
    trainer = FakeTrainer(1, **{name: 1.0, "value_loss": 2.0})  # no validation in this epoch
    assert ModelEpochSummary(None, monitor="x")._consider(trainer, epoch_ended=True) == {"value_loss": 2.0}


def test_a_monitor_with_a_slash_still_names_a_file(tmp_path):
    run_epochs(ModelEpochSummary(tmp_path, monitor="val/x"), {"val/x": 1.0})
    assert (tmp_path / "epoch_summary_val_x.txt").exists()


def test_the_mode_is_checked():
    with pytest.raises(ValueError, match=r"mode=\) is 'min' or 'max', got 'highest'"):
        ModelEpochSummary(None, monitor="x", mode="highest")


def test_summaries_of_several_monitors_are_told_apart():
    assert ModelEpochSummary(None, "a").state_key != ModelEpochSummary(None, "b").state_key


def test_learning_rates_of_the_epoch_and_its_duration_are_shown(make_module, make_trainer, make_loader, tmp_path):
    def optimizer(module):
        groups = [{"params": [one], "lr": rate} for one, rate in zip(module.parameters(), (0.1, 1e-5), strict=True)]
        optimizer = torch.optim.SGD(groups)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}

    module = make_module(optimizers_and_lr_schs=optimizer, best_epoch_source={"monitor": "train.losses.mse"})
    make_trainer(max_epochs=2).fit(module, make_loader(8))
    lines = (tmp_path / "epoch_summary_train.losses.mse.txt").read_text().splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines[2:-2]}
    assert list(cells) == sorted(cells)
    assert cells["lr-SGD/pg1"] == ["0.05", "0.05"]  # what the epoch trained with, not what comes next
    assert cells["lr-SGD/pg2"] == ["5e-06", "5e-06"]
    assert 0 < float(cells["epoch seconds"][1]) < 60


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("logged_name", [None, "rate"])
def test_a_learning_rate_that_is_logged_is_shown_once(
    make_module, make_trainer, make_loader, tmp_path, groups, logged_name
):
    def optimizer(module):
        weight, bias = module.parameters()
        parameters = [weight, bias] if groups == 1 else [{"params": [weight]}, {"params": [bias], "name": "bias"}]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        schedule = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "name": logged_name}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    source = {"monitor": "train.losses.mse"}
    module = make_module(model_dir=tmp_path / "model", optimizers_and_lr_schs=optimizer, best_epoch_source=source)
    make_trainer(logger=CSVLogger(tmp_path)).fit(module, make_loader(8))
    lines = (tmp_path / "model" / "epoch_summary_train.losses.mse.txt").read_text().splitlines()[2:-2]
    names = [line.split("|")[1].strip() for line in lines]
    name = logged_name or "lr-SGD"
    rates = [name] if groups == 1 else [f"{name}/bias", f"{name}/pg1"]
    assert names == sorted(["epoch seconds", *rates, "train.losses.mse *", "train.losses.total_loss"])


def test_learning_rates_are_called_as_the_log_calls_them(make_trainer, tmp_path):
    class TwoOptimizers(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.linear = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            weight, bias = self.linear.parameters()
            groups = [{"params": [weight], "lr": 0.1}, {"params": [bias], "name": "bias"}]
            return [torch.optim.SGD(groups, lr=0.2), torch.optim.SGD([weight], lr=0.3), torch.optim.Adam([bias])]

    monitor = LearningRateMonitor(logging_interval="epoch")
    trainer = make_trainer(callbacks=[monitor], logger=CSVLogger(tmp_path))
    trainer.fit(TwoOptimizers(), torch.utils.data.DataLoader(range(2)))
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert learning_rates(trainer.optimizers) == pytest.approx(logged)
    assert sorted(logged) == ["lr-Adam", "lr-SGD-1", "lr-SGD/bias", "lr-SGD/pg1"]


def test_values_that_say_nothing_new_are_not_shown():
    summary = ModelEpochSummary(None, monitor="x")
    metrics = {"x": 1.0, "x_step": 2.0, "x_epoch": 1.0, "y_step": 3.0, "step": 0.0}
    assert summary._consider(FakeTrainer(0, **metrics), epoch_ended=True) == {"x": 1.0, "y_step": 3.0}


def test_a_summary_that_cannot_be_written_leaves_that_of_the_epoch_before(tmp_path, monkeypatch):
    summary = ModelEpochSummary(tmp_path, monitor="x")
    run_epochs(summary, {"x": 1.0})
    before = (tmp_path / "epoch_summary_x.txt").read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_epochs(summary, {"x": 0.5})
    assert (tmp_path / "epoch_summary_x.txt").read_text() == before


def test_losses_and_the_monitor_are_marked_if_better_than_in_all_earlier_epochs(capsys):
    summary = ModelEpochSummary(None, monitor="validation.x", mode="max")
    for epoch, (x, loss) in enumerate([(1.0, 3.0), (2.0, 4.0), (1.5, 2.5)]):
        if epoch == 2:  # resumed
            state = summary.state_dict()
            summary = ModelEpochSummary(None, monitor="validation.x", mode="max")
            summary.load_state_dict(state)
        run_epochs(summary, {"validation.x": x, "train.loss": loss, "train.other": loss})
    tables = capsys.readouterr().out.split("Epoch")[1:]
    assert ["+" in table for table in tables] == [False, True, True]
    assert "2.000 +" in tables[1]
    assert tables[2].count("2.500 +") == 1


def test_a_monitor_that_is_not_logged_is_an_error():
    trainer = FakeTrainer(0, y=1.0)
    trainer.enable_validation = False
    with pytest.raises(ValueError, match=r"monitors 'x', which epoch 0 did not log\. Logged are: y\."):
        ModelEpochSummary(None, monitor="x").on_train_epoch_end(trainer, None)


def test_of_several_validations_in_an_epoch_the_best_one_tells():
    summary = ModelEpochSummary(None, monitor="validation.x")
    early, late = {"validation.x": 1.0, "train.x": 9.0}, {"validation.x": 2.0, "train.x": 9.0}
    summary.on_validation_end(FakeTrainer(4, **early), None)  # `train.x` is left from the epoch before
    assert summary.state_dict() == {"best_epoch": 4, "best_values": {"validation.x": 1.0}, "records": {}}
    summary.on_validation_end(FakeTrainer(4, **late), None)
    summary.on_train_epoch_end(FakeTrainer(4, **late | {"train.x": 3.0}), None)
    assert summary.best_values == {"validation.x": 1.0, "train.x": 3.0}


def test_a_trial_run_leaves_no_files(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"}, save_model=True)
    make_trainer(fast_dev_run=True).fit(module, make_loader(8), make_loader(4))
    assert not list(tmp_path.iterdir())


def test_a_validation_outside_training_is_no_epoch(make_module, make_trainer, make_loader, tmp_path, capsys):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
    trainer = make_trainer()
    trainer.validate(module, make_loader(4), verbose=False)
    assert "Epoch" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    trainer.fit(module, make_loader(8), make_loader(4, offset=9.0))  # a larger loss than that of the validation before
    assert "Epoch 0, best epoch 0" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_resumed_at_an_epochs_end_shows_no_empty_epoch(make_module, make_trainer, make_loader, tmp_path, capsys):
    for steps in (2, 4):
        module = make_module(best_epoch_source={"monitor": "train.losses.mse"})
        path = tmp_path / "last.ckpt"
        trainer = make_trainer(max_epochs=-1, max_steps=steps)
        trainer.fit(module, make_loader(8), ckpt_path=path if path.exists() else None)
    titles = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert titles == ["Epoch 0", "Epoch 1"]
