import pytest
from torch import nn
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


def test_a_training_warns_of_prediction_keys_that_nothing_writes_and_goes_on(make_module, make_trainer, make_loader):
    trainer = make_trainer(max_epochs=2)
    message = r"predict would fail\. (.|\n)*reads 'model\.yy', which nothing .* Nearest keys: 'model\.y' \(written by"
    with pytest.warns(UserWarning, match=message) as warned:
        trainer.fit(make_module(prediction_keys=["model.yy"]), make_loader(8), make_loader(4))
    assert trainer.global_step == 4
    assert sum("predict would fail" in str(one.message) for one in warned) == 1


class Undeclared(nn.Module):
    """A model that does not say what it writes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch_dict):
        batch_dict["model.y"] = self.linear(batch_dict["data.x"])
        return batch_dict


@pytest.mark.parametrize("options", [{"prediction_keys": ["model", "data.y"]}, {"model": Undeclared()}])
def test_a_training_is_silent_of_prediction_keys_that_are_right_or_unknown(
    make_module, make_trainer, make_loader, recwarn, options
):
    make_trainer().fit(make_module(**{"prediction_keys": ["model.any"]} | options), make_loader(4))
    assert not [one for one in recwarn if "predict" in str(one.message)]


def test_keys_that_a_preprocessing_makes_are_no_mistake(make_module, make_trainer, make_loader):
    def derive(batch_dict):
        batch_dict["data.doubled"] = 2 * batch_dict["data.y"]
        return batch_dict

    metric = MetricDefault(pred="model.y", target="data.doubled", metric=MeanSquaredError(), preprocess_func=derive)
    trainer = make_trainer()
    trainer.validate(make_module(validation_metrics={"mse": metric}), make_loader(4), verbose=False)
    assert trainer.callback_metrics["validation.metrics.mse"] > 0


def test_the_wiring_can_be_looked_at(make_module, make_loader):
    wiring = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))))
    assert wiring.writers["model.y"] == "ModelWrapSeqToDict 'model'"
    assert wiring.readers["data.y"] == ["LossDefault 'losses.mse'"]
    assert wiring.writers["losses.total_loss"] == "step_losses 'losses'"
    predicting = make_module(prediction_keys=["model.y"]).wiring(next(iter(make_loader(4))), mode="predict")
    assert predicting.readers["model.y"] == ["step_extract_predictions 'prediction_keys'"]


def test_the_wiring_of_one_of_several_loaders_can_be_looked_at(make_module, make_loader, mse_loss, mse_metric):
    module = make_module(validation_losses={"near": {"mse": mse_loss}, "far": {"far": mse_loss}})
    batch = next(iter(make_loader(4)))
    assert module.wiring(batch, "validation", "far").readers["data.y"] == ["LossDefault 'losses.far'"]
    with pytest.raises(ValueError, match=r"wiring\(loader=\) is one of 'near', 'far', got None"):
        module.wiring(batch, "validation")
    with pytest.raises(ValueError, match=r"wiring\(mode=\) is 'train', 'validation', 'test' or 'predict', got 'val'"):
        module.wiring(batch, "val")
