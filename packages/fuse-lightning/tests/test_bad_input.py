"""What is wrong is said before training starts, where it can be known."""

import pytest
import pytorch_lightning as pl
import torch
from torchmetrics import MeanSquaredError

from fuse_core import WiringError
from fuse_lightning import MetricDefault


@pytest.mark.parametrize("mode", ["train", "validation", "test"])
def test_a_metric_whose_keys_nothing_writes(make_module, make_trainer, make_loader, mode):
    metric = MetricDefault(pred="model.why", target="data.y", metric=MeanSquaredError())
    module = make_module(**{f"{mode}_metrics": {"mse": metric}})
    trainer = make_trainer()
    run = {"train": trainer.fit, "validation": trainer.validate, "test": trainer.test}[mode]
    with pytest.raises(WiringError, match=r"MetricDefault 'metrics\.mse' reads 'model\.why'.*'model\.y'"):
        run(module, make_loader(4))
    assert trainer.global_step == 0


def test_a_prediction_key_that_nothing_writes(make_module, make_trainer, make_loader):
    with pytest.raises(WiringError, match=r"step_extract_predictions 'prediction_keys' reads 'model\.why'"):
        make_trainer().predict(make_module(prediction_keys=["model.why"]), make_loader(4))


def test_keys_that_a_preprocessing_makes_are_no_mistake(make_module, make_trainer, make_loader):
    def derive(batch_dict):
        batch_dict["data.doubled"] = 2 * batch_dict["data.y"]
        return batch_dict

    metric = MetricDefault(pred="model.y", target="data.doubled", metric=MeanSquaredError(), preprocess_func=derive)
    make_trainer().validate(make_module(validation_metrics={"mse": metric}), make_loader(4), verbose=False)


def test_the_wiring_can_be_looked_at(make_module, make_loader):
    wiring = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))))
    assert wiring.writers["model.y"] == "ModelWrapSeqToDict 'model'"
    assert wiring.readers["data.y"] == ["LossDefault 'losses.mse'"]
    assert wiring.writers["losses.total_loss"] == "step_losses 'losses'"
    predicting = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))), mode="predict")
    assert predicting.readers["model.y"] == ["step_extract_predictions 'prediction_keys'"]


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (
            "validation.losses.msee",
            r"never logged\. Did you mean 'validation\.losses\.mse'\? Logged are: train\.losses",
        ),
        ("validation.metrics.auc", r"never logged.*Logged are: .*validation\.losses\.total_loss\."),
        ("train.losses.ce", "never logged"),
    ],
)
def test_a_monitor_that_is_never_logged(make_module, make_trainer, make_loader, monitor, message):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=message):
        trainer.fit(make_module(best_epoch_source={"monitor": monitor}), make_loader(4), make_loader(4))
    assert trainer.global_step == 0


def test_a_monitor_of_validation_without_validation(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "validation.losses.mse"})
    with pytest.raises(ValueError, match=r"never logged.*Logged are: train\.losses\.mse, train\.losses\.total_loss\."):
        make_trainer().fit(module, make_loader(4))


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_monitor_of_ones_own_that_is_not_logged_stops_after_an_epoch(make_module, make_trainer, make_loader):
    module = make_module(best_epoch_source={"monitor": "mine"})
    with pytest.raises(
        ValueError, match=r"monitors 'mine', which epoch 0 did not log\. Logged are: train\.losses\.mse"
    ):
        make_trainer().fit(module, make_loader(4))


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_an_empty_loader(make_module, make_trainer, stage):
    empty = torch.utils.data.DataLoader([])
    message = rf"The loader for {stage} gives no batch\. Is its dataset empty"
    with pytest.raises(ValueError, match=message):
        getattr(make_trainer(), stage)(make_module(prediction_keys=["model.y"]), empty)


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
def test_an_empty_validation_loader_is_noticed_before_training(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=r"Loader 1 for validate gives no batch"):
        trainer.fit(make_module(), make_loader(4), [make_loader(4), torch.utils.data.DataLoader([])])
    assert trainer.global_step == 0


def test_prediction_keys_that_are_not_set(make_module, make_trainer, make_loader):
    with pytest.raises(ValueError, match=r"Give LightningModuleDefault\(prediction_keys=\[\.\.\.\]\)"):
        make_trainer().predict(make_module(), make_loader(4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="No supported gpu backend found"):
        pl.Trainer(accelerator="gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_unit": "batch"}, r"log_unit=\) is one of None, 'optimizer_step', 'epoch'; got 'batch'"),
        ({"on_nonfinite": None}, r"on_nonfinite=\) is one of 'raise', 'skip', 'ignore'; got None"),
    ],
)
def test_unknown_options(make_module, options, message):
    with pytest.raises(ValueError, match=message):
        make_module(**options)


def test_names_may_be_separated_by_slashes_and_drawn_over_epochs(make_module, make_trainer, make_loader, mse_metric):
    module = make_module(
        tensorboard_sep="/",
        log_unit="epoch",
        train_metrics={"mse": mse_metric()},
        best_epoch_source={"monitor": "validation/losses/mse"},
    )
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, make_loader(8), make_loader(4))
    assert {"train/losses/mse", "train/metrics/mse", "validation/losses/total_loss"} < set(trainer.callback_metrics)
    assert trainer.callback_metrics["step"] == 1
