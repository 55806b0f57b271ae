import pytest
import torch
from torch import nn
from torchmetrics import MeanSquaredError

from fuse_core import NDict, WiringError, check_wiring
from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

BATCH = NDict({"data": {"x": torch.zeros(2, 3), "y": torch.zeros(2, 1)}})


def chain(model_input="data.x", loss_pred="model.y", metric_target="data.y"):
    return {
        "linear": ModelWrapSeqToDict(model=nn.Linear(3, 1), model_inputs=[model_input], model_outputs=["model.y"]),
        "mse": LossDefault(pred=loss_pred, target="data.y", callable=nn.functional.mse_loss),
        "error": MetricDefault(pred="model.y", target=metric_target, metric=MeanSquaredError()),
    }


def test_the_packages_components_declare_what_they_use():
    assert check_wiring(chain(), BATCH).readers == {
        "data.x": ["ModelWrapSeqToDict 'linear'"],
        "model.y": ["LossDefault 'mse'", "MetricDefault 'error'"],
        "data.y": ["LossDefault 'mse'", "MetricDefault 'error'"],
    }


def test_a_mistake_in_each_of_model_loss_and_metric_is_found_at_once():
    with pytest.raises(WiringError) as info:
        check_wiring(chain(model_input="data.xx", loss_pred="model.yy", metric_target="data.yy"), BATCH)
    model, loss, metric = info.value.problems
    assert model.startswith("ModelWrapSeqToDict 'linear' reads 'data.xx'")
    assert loss.startswith("LossDefault 'mse' reads 'model.yy'")
    assert "'model.y' (written by ModelWrapSeqToDict 'linear')" in loss
    assert metric.startswith("MetricDefault 'error' reads 'data.yy'")
