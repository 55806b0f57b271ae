import pytest

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


def test_the_mode_is_checked():
    with pytest.raises(ValueError, match=r"mode=\) is 'min' or 'max', got 'highest'"):
        ModelEpochSummary(None, monitor="x", mode="highest")


def test_summaries_of_several_monitors_are_told_apart():
    assert ModelEpochSummary(None, "a").state_key != ModelEpochSummary(None, "b").state_key
