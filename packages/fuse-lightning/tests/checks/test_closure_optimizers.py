"""Optimizers that evaluate a batch more than once, with accumulation."""

import pytest
import torch

from fuse_optim import SAM


@pytest.fixture
def callback():
    return pytest.importorskip("fuse_optim.lightning").OptimizerClosureCallback()


def sam(module):
    return SAM(module.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)


def test_sam_with_accumulation_takes_the_step_of_one_large_batch(make_module, make_trainer, make_loader, callback):
    accumulated = make_module(optimizers_and_lr_schs=sam)
    make_trainer(accumulate_grad_batches=4, callbacks=[callback]).fit(accumulated, make_loader(32, batch_size=4))
    whole = make_module(optimizers_and_lr_schs=sam)
    make_trainer(enable_checkpointing=False).fit(whole, make_loader(32, batch_size=16))
    for one, other in zip(accumulated.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_every_batch_is_logged_once_at_the_weights(make_module, make_trainer, make_loader, mse_metric, callback):
    module = make_module(
        train_metrics={"mse": mse_metric()},
        optimizers_and_lr_schs=lambda module: SAM(module.parameters(), torch.optim.SGD, rho=0.5, lr=0.0),
    )
    (expected,) = make_trainer(enable_checkpointing=False).validate(module, make_loader(10), verbose=False)
    trainer = make_trainer(accumulate_grad_batches=2, callbacks=[callback])
    trainer.fit(module, make_loader(10))
    for name in ("losses.mse", "metrics.mse"):
        value = trainer.callback_metrics[f"train.{name}"].item()
        assert value == pytest.approx(expected["validation.losses.mse"], rel=1e-6)
    assert trainer.global_step == 2


def test_without_the_callback_accumulation_is_refused(make_module, make_trainer, make_loader):
    message = r"SAM evaluates its batch more than once.*Add fuse_optim\.lightning\.OptimizerClosureCallback\(\)"
    with pytest.raises(ValueError, match=message):
        make_trainer(accumulate_grad_batches=2).fit(make_module(optimizers_and_lr_schs=sam), make_loader(8))
