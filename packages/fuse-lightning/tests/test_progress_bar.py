import sys

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from fuse_lightning.progress_bar import short_metrics

LOSSES = {"dice": 0.2, "cross_entropy": 0.3, "total_loss": 0.5}


def test_the_total_comes_first_then_other_values_then_losses_that_fit():
    others = {"validation/metrics/dice/mean": 0.9}
    assert list(short_metrics(LOSSES, others, None)) == ["loss", "dice/mean", "dice", "cross_entropy"]
    assert list(short_metrics(LOSSES, others, 30)) == ["loss", "dice/mean"]


def test_the_only_loss_is_shown_once_and_other_values_always():
    assert short_metrics({"cls": 0.5, "total_loss": 0.5}, {}, None) == {"loss": 0.5}
    assert short_metrics({"cls": 0.5, "total_loss": 0.5}, {"accuracy": 0.9}, 0) == {"loss": 0.5, "accuracy": 0.9}
    assert short_metrics({"loss": 0.5, "total_loss": 0.5}, {}, None) == {"loss": 0.5}


def test_equal_short_names_stay_long():
    others = {"train.metrics.f1": 1.0, "validation.metrics.f1": 2.0, "validation.losses.dice": 3.0}
    assert list(short_metrics(LOSSES, others, 0)) == ["loss", *others]
    assert list(short_metrics({"loss": 0.5, "b": 1.0, "total_loss": 1.5}, {}, None)) == ["total_loss", "loss", "b"]


class Printed(pl.Callback):
    """Logs values, keeps the names that the bar shows at a training's end, and checks its line."""

    def __init__(self, logged):
        self.logged = logged

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.log_dict(dict.fromkeys(self.logged, 0.75), prog_bar=True)

    def on_train_end(self, trainer, pl_module):
        bar = trainer.progress_bar_callback
        self.shown = list(bar.get_metrics(trainer, pl_module))
        if isinstance(bar, TQDMProgressBar):  # rich's line depends on its threads
            fixed = {"elapsed": 9.0, "rate": 123.45, "ncols": 80}
            line = bar.train_progress_bar.format_meter(**bar.train_progress_bar.format_dict | fixed)
            assert len(line) <= 80
            assert line.endswith("]")  # not cut


@pytest.mark.parametrize(
    ("kind", "logged", "shown"),
    [
        (TQDMProgressBar, ["f1"], ["loss", "f1", "a"]),
        (TQDMProgressBar, [], ["loss", "a"]),
        (RichProgressBar, [], ["loss"]),
    ],
)
def test_the_bars_of_lightning_fit_into_80_columns_and_show_no_version(
    make_module, make_trainer, make_loader, mse_loss, tmp_path, monkeypatch, kind, logged, shown
):
    monkeypatch.setenv("COLUMNS", "80")
    if kind is RichProgressBar:
        pytest.importorskip("rich")
    module = make_module(losses=dict.fromkeys(("a", "cross_entropy_of_pixels"), mse_loss))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar, printed = kind(), Printed(logged)
    options = {"enable_progress_bar": True, "enable_checkpointing": False, "log_every_n_steps": 1}
    trainer = make_trainer(callbacks=[bar, printed], logger=CSVLogger(tmp_path, name="logs"), **options)
    trainer.fit(module, make_loader(8))
    assert printed.shown == shown
    assert "v_num" in bar.get_metrics(trainer, pl.LightningModule())  # a module that is fitted later


def test_a_bar_that_chooses_its_values_itself_is_left_alone(make_module, make_trainer, make_loader):
    class Bar(TQDMProgressBar):
        def get_metrics(self, trainer, pl_module):
            return {"mine": 1.0}

    bar = Bar()
    make_trainer(callbacks=[bar], enable_progress_bar=True).fit(make_module(), make_loader(8))
    assert bar.get_metrics(None, None) == {"mine": 1.0}
