from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from fuse_lightning import ConfigureOptimizers

SGD = partial(torch.optim.SGD, lr=0.1)
STEP = partial(torch.optim.lr_scheduler.StepLR, step_size=10)
PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau


@pytest.fixture
def module():
    module = pl.LightningModule()
    module.linear = torch.nn.Linear(2, 1)
    return module


def test_it_makes_optimizer_and_schedule(module):
    configured = ConfigureOptimizers(SGD, STEP, interval="step", frequency=3)(module)
    assert configured["optimizer"].param_groups[0]["params"] == list(module.parameters())
    schedule = configured["lr_scheduler"]
    assert schedule["scheduler"].optimizer is configured["optimizer"]
    assert (schedule["interval"], schedule["frequency"]) == ("step", 3)
    assert "monitor" not in schedule


def test_a_schedule_that_follows_a_value_is_told_which(module):
    configured = ConfigureOptimizers(SGD, PLATEAU, monitor="validation.losses.total_loss")(module)
    assert configured["lr_scheduler"]["monitor"] == "validation.losses.total_loss"


def test_frozen_parameters_are_left_out(module):
    module.linear.bias.requires_grad_(False)
    configured = ConfigureOptimizers(SGD)(module)
    assert configured["optimizer"].param_groups[0]["params"] == [module.linear.weight]
    assert "lr_scheduler" not in configured


def test_nothing_to_train_is_refused(module):
    module.requires_grad_(False)
    with pytest.raises(ValueError, match=r"LightningModule has no parameter that requires a gradient"):
        ConfigureOptimizers(SGD)(module)


def test_plateau_without_monitor_is_refused(module):
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau needs a value to follow: give"):
        ConfigureOptimizers(SGD, PLATEAU)(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": "sgd"}, TypeError, r"ConfigureOptimizers\(optimizer=\) takes a class or function"),
        (
            {"optimizer": SGD, "lr_scheduler": 3},
            TypeError,
            r"ConfigureOptimizers\(lr_scheduler=\) takes a class or function",
        ),
        ({"optimizer": SGD, "interval": "batch"}, ValueError, r"\(interval=\) is 'epoch' or 'step', got 'batch'"),
        ({"optimizer": SGD, "frequency": 0}, ValueError, r"\(frequency=\) is at least 1, got 0"),
        ({"optimizer": SGD, "monitor": "x"}, ValueError, r"\(monitor='x'\) needs a schedule that follows it"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ConfigureOptimizers(**arguments)
