import pytest
import torch

from fuse_lightning import ModelEpochSummary


def test_the_table_shows_best_and_current_epoch_sorted():
    summary = ModelEpochSummary(None, monitor="b", mode="max")
    summary.best_epoch, summary.best_values = 3, {"b": 0.9, "a": 1.0}
    assert summary.table(5, {"b": 0.5, "c": 2.0}).splitlines() == [
        "|     | best epoch (3) | current epoch (5) |",
        "|-----|----------------|-------------------|",
        "| a   |        1.00000 |                 - |",
        "| b * |        0.90000 |           0.50000 |",
        "| c   |              - |           2.00000 |",
        "* the best epoch is the one with the largest",
    ]


def test_before_any_best_epoch_there_is_none():
    assert "best epoch |" in ModelEpochSummary(None, monitor="x").table(0, {"y": 1.0})


class FakeTrainer:
    def __init__(self, epoch, **metrics):
        self.current_epoch = epoch
        self.callback_metrics = metrics
        self.is_global_zero = True
        self.sanity_checking = False
        self.fast_dev_run = False


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
    assert "| validation.x * |        2.00000 |                 - |" in capsys.readouterr().out
    assert summary.best_epoch == 0


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
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines[2:-1]}
    assert list(cells) == sorted(cells)
    assert cells["learning rate 0"] == ["0.05000", "0.05000"]  # what the epoch trained with, not what comes next
    assert cells["learning rate 1"] == ["5.000e-06", "5.000e-06"]
    assert 0 < float(cells["epoch seconds"][1]) < 60


def test_a_monitor_that_is_not_logged_is_an_error():
    trainer = FakeTrainer(0, y=1.0)
    trainer.enable_validation = False
    with pytest.raises(ValueError, match=r"monitors 'x', which epoch 0 did not log\. Logged are: y\."):
        ModelEpochSummary(None, monitor="x").on_train_epoch_end(trainer, None)


def test_of_several_validations_in_an_epoch_the_best_one_tells():
    summary = ModelEpochSummary(None, monitor="validation.x")
    early, late = {"validation.x": 1.0, "train.x": 9.0}, {"validation.x": 2.0, "train.x": 9.0}
    summary.on_validation_end(FakeTrainer(4, **early), None)  # `train.x` is left from the epoch before
    assert summary.state_dict() == {"best_epoch": 4, "best_values": {"validation.x": 1.0}}
    summary.on_validation_end(FakeTrainer(4, **late), None)
    summary.on_train_epoch_end(FakeTrainer(4, **late | {"train.x": 3.0}), None)
    assert summary.best_values == {"validation.x": 1.0, "train.x": 3.0}


def test_a_trial_run_leaves_no_files(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"}, save_model=True)
    make_trainer(fast_dev_run=True).fit(module, make_loader(8), make_loader(4))
    assert not list(tmp_path.iterdir())
