"""A chest volume, age and sex."""

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import multiclass_auroc

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import BackboneResnet3D, Head3D, ModelMultiHead

OUTPUT = "model.output.covid"


def test_covid_volumes_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.volume", 1),),
        backbone=BackboneResnet3D(in_channels=1, layers=[1, 1, 1, 1], first_channel_dim=4),
        heads=[
            Head3D(
                head_name="covid",
                mode="classification",
                num_outputs=2,
                conv_inputs=[("model.backbone_features", 32)],
                append_features=[("data.age_and_sex", 2)],
                layers_description=(8,),
                dropout_rate=0.0,
                fused_dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    batches = migration.loader(
        ["data.volume", "data.age_and_sex", "data.label"],
        migration.images(8, 1, 8, 32, 32, classes=2),
        migration.scattered(8, 2),
        migration.labels(8, 2),
    )
    losses = {"cls_loss": LossDefault(pred="model.logits.covid", target="data.label", callable=F.cross_entropy)}
    metrics = {"auc": MetricDefault(pred=OUTPUT, target="data.label", metric=MulticlassAUROC(2))}
    monitor = {"monitor": "validation.metrics.auc", "mode": "max"}

    logged, table = migration.train_and_predict(tmp_path, model, losses, metrics, batches, OUTPUT, monitor, lr=1e-3)

    for name in ("train.losses.cls_loss", "validation.losses.total_loss"):
        assert logged[name] == pytest.approx(expected["logged"][name], abs=1e-5)
    for mode in ("train", "validation"):
        there = expected["logged"][f"{mode}.metrics.auc.macro_avg"]
        assert logged[f"{mode}.metrics.auc"] == pytest.approx(there, abs=1e-6)
    probabilities = torch.tensor(table.filter(like=OUTPUT).to_numpy())
    assert probabilities[0].tolist() == pytest.approx(expected["predicted"], abs=1e-5)
    auc = multiclass_auroc(probabilities, torch.tensor(table["data.label"].to_numpy()), 2)
    assert auc.item() == pytest.approx(expected["evaluated"]["metrics.auc.macro_avg"], abs=1e-6)
