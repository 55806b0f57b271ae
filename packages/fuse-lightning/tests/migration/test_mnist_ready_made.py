"""Handwritten digits with LightningModuleDefault, as in fuse-med-ml's starter example."""

import pytest
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

LOGITS, OUTPUT = "model.logits.digit", "model.output.digit"


def softmax_too(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits, F.softmax(logits, dim=1)


def test_digits_ready_made_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelWrapSeqToDict(
        model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)),
        model_inputs=["data.image"],
        post_forward_processing_function=softmax_too,
        model_outputs=[LOGITS, OUTPUT],
    )
    migration.set_weights(model.parameters())
    batches = migration.loader(
        ["data.image", "data.label"], migration.images(20, 1, 8, 8, classes=4), migration.labels(20, 4)
    )
    losses = {"cls_loss": LossDefault(pred=LOGITS, target="data.label", callable=F.cross_entropy, weight=1.0)}
    accuracy = MetricDefault(pred=OUTPUT, target="data.label", metric=MulticlassAccuracy(4, average="micro"))
    monitor = {"monitor": "validation.metrics.accuracy", "mode": "max"}

    logged, table = migration.train_and_predict(
        tmp_path, model, losses, {"accuracy": accuracy}, batches, OUTPUT, monitor
    )

    assert {name: logged[name] for name in expected["logged"]} == pytest.approx(expected["logged"], abs=1e-5)
    probabilities = table.filter(like=OUTPUT).to_numpy()
    assert probabilities[0] == pytest.approx(expected["predicted"], abs=1e-5)
    evaluated = (probabilities.argmax(1) == table["data.label"]).mean()
    assert evaluated == pytest.approx(expected["evaluated"]["metrics.accuracy"])
