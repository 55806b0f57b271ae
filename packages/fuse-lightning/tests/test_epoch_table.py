import sys

import pytest

from fuse_lightning.epoch_table import epoch_table

CURRENT = {
    "train.losses.cls": 0.25,
    "train.metrics.dice.mean": 0.75,
    "train.metrics.dice.a": 0.5,
    "train.metrics.dice.b": 1.0,
    "validation.losses.cls": 0.5,
    "validation.metrics.dice.mean": 0.65,
    "validation.metrics.dice.a": 0.4,
    "validation.metrics.dice.b": 0.9,
    "lr-Adam": 0.001,
    "epoch seconds": 12.34,
}
BEST = {name: value + 0.1 for name, value in CURRENT.items()}


def table(best=BEST, current=CURRENT, improved=(), monitor="validation.losses.cls", **options):
    return epoch_table(best, current, "Epoch 5, best epoch 3", monitor, improved, **options)


def test_training_and_validation_stand_side_by_side_and_classes_behind_their_mean():
    assert table(improved={"train.losses.cls"}, color=False).splitlines() == [
        "Epoch 5, best epoch 3, seconds 12.3, lr-Adam 0.001",
        "",
        "|                        | best train | best validation |    train | validation |",
        "|:-----------------------|-----------:|----------------:|---------:|-----------:|",
        "| losses.cls *           |     0.3500 |          0.6000 | 0.2500 + |     0.5000 |",
        "| metrics.dice.mean (+2) |     0.8500 |          0.7500 |   0.7500 |     0.6500 |",
    ]


@pytest.mark.parametrize(
    ("train", "validation"), [("train_x", "val_x"), ("train/x", "val/x"), ("training.x", "valid.x")]
)
def test_usual_names_of_modes_are_known(train, validation):
    lines = table({}, {train: 1.0, validation: 2.0}, color=False).splitlines()
    assert lines[-1].split() == ["|", "x", "|", "-", "|", "-", "|", "1.000", "|", "2.000", "|"]


def test_values_without_a_mode_have_columns_of_their_own():
    lines = table({"gap": 0.2}, {"gap": 0.1, "values": 3.0}, color=False).splitlines()
    assert [line.split()[1::2] for line in lines[-2:]] == [["gap", "0.2000", "0.1000"], ["values", "-", "3.000"]]
    assert lines[2].split() == ["|", "|", "best", "|", "current", "|"]


def test_a_terminal_gets_colors_and_80_columns(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = table(improved={"train.losses.cls"})
    assert "\x1b[1;32m0.2500 +\x1b[0m" in shown
    assert "metrics.dice.mean (+2)" in shown


def test_a_log_gets_plain_text(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert "\x1b" not in table()


def test_the_means_of_steps_stand_beside_the_validation_of_an_epoch_without_an_end():
    values = {"train.losses.cls_step": 0.25, "validation.losses.cls": 0.5}
    assert "| losses.cls * |          - |               - | 0.2500 |     0.5000 |" in epoch_table(
        {}, values, "Epoch 0", monitor="validation.losses.cls", color=False
    )
