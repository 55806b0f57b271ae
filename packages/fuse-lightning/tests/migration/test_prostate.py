"""A map of classes, learned with Dice on probabilities and cross-entropy."""

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault, LossDice
from fuse_models import ModelWrapSeqToDict

LOGITS, OUTPUT = "model.logits.seg", "model.output.seg"


def softmax_too(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits, F.softmax(logits, dim=1)


def test_prostate_segmentation_gives_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelWrapSeqToDict(
        model=nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)),
        model_inputs=["data.volume"],
        post_forward_processing_function=softmax_too,
        model_outputs=[LOGITS, OUTPUT],
    )
    migration.set_weights(model.parameters())
    volumes = migration.scattered(8, 1, 4, 8, 8)
    batches = migration.loader(["data.volume", "data.label"], volumes, (volumes[:, 0] > 0.3).long())
    losses = {
        "dice": LossDice(
            pred=OUTPUT, target="data.label", activation="none", smooth_numerator=1e-5, smooth_denominator=1e-5
        ),  # there BinaryDiceLoss(), with a one-hot target
        "ce": LossDefault(pred=LOGITS, target="data.label", callable=F.cross_entropy, weight=0.5),
    }
    metric = MulticlassAccuracy(2, average="micro")
    metrics = {"accuracy": MetricDefault(pred=OUTPUT, target="data.label", metric=metric)}
    monitor = {"monitor": "validation.losses.total_loss", "mode": "min"}

    logged, table = migration.train_and_predict(tmp_path, model, losses, metrics, batches, OUTPUT, monitor)

    assert {name: logged[name] for name in expected["logged"]} == pytest.approx(expected["logged"], abs=1e-5)
    assert list(table.columns) == expected["columns"]
    probabilities, masks = np.stack(table[OUTPUT]), np.stack(table["data.label"])
    assert probabilities[0].flatten()[:12].tolist() == pytest.approx(expected["predicted"], abs=1e-5)
    evaluated = (probabilities.argmax(1) == masks).mean()
    assert evaluated == pytest.approx(expected["evaluated"]["metrics.accuracy"], abs=1e-6)
