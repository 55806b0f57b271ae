import sys

import pytest
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from fuse_lightning.progress_bar import short_metrics

LOSSES = {"dice": 0.2, "cross_entropy": 0.3, "total_loss": 0.5}


def test_the_total_comes_first_then_chosen_values_then_losses_that_fit():
    values = {**LOSSES, "validation/metrics/dice/mean": 0.9}
    chosen = ["validation/metrics/dice/mean"]
    assert list(short_metrics(values, chosen, None)) == ["loss", "dice/mean", "dice", "cross_entropy"]
    assert list(short_metrics(values, chosen, 30)) == ["loss", "dice/mean"]


def test_the_only_loss_is_shown_once():
    assert short_metrics({"cls": 0.5, "total_loss": 0.5}, [], None) == {"loss": 0.5}


def test_equal_short_names_stay_long():
    values = {**LOSSES, "train.metrics.f1": 1.0, "validation.metrics.f1": 2.0, "validation.losses.dice": 3.0}
    chosen = ["train.metrics.f1", "validation.metrics.f1", "validation.losses.dice"]
    assert list(short_metrics(values, chosen, 0)) == ["loss", *chosen]
    assert list(short_metrics({"loss": 0.5, "b": 1.0, "total_loss": 1.5}, [], None)) == ["total_loss", "loss", "b"]


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_the_bars_of_lightning_fit_into_80_columns_and_show_no_version(
    make_module, make_trainer, make_loader, mse_metric, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("COLUMNS", "80")
    module = make_module(
        model_dir=None, validation_metrics={"mean": mse_metric()}, progress_bar_metrics=["validation.metrics.mean"]
    )
    if kind is RichProgressBar:
        pytest.importorskip("rich")
    bar = kind()
    logger = CSVLogger(tmp_path, name="logs")
    options = {"enable_progress_bar": True, "enable_checkpointing": False, "log_every_n_steps": 1}
    trainer = make_trainer(callbacks=[bar], logger=logger, **options)
    trainer.fit(module, make_loader(8), make_loader(8))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = bar.get_metrics(trainer, module)
    assert list(shown) == ["loss", "mean"]
    assert shown["loss"] == pytest.approx(trainer.progress_bar_metrics["total_loss"])


def test_a_bar_that_chooses_its_values_itself_is_left_alone(make_module, make_trainer, make_loader):
    class Bar(TQDMProgressBar):
        def get_metrics(self, trainer, pl_module):
            return {"mine": 1.0}

    bar = Bar()
    make_trainer(callbacks=[bar], enable_progress_bar=True).fit(make_module(), make_loader(8))
    assert bar.get_metrics(None, None) == {"mine": 1.0}
