"""Two classes from a mammogram: training, inference and evaluation."""

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import multiclass_auroc

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import BackboneInceptionResnetV2, HeadGlobalPoolingClassifier, ModelMultiHead

OUTPUT = "model.output.head_0"


def test_mammography_gives_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.image", 1),),
        backbone=BackboneInceptionResnetV2(in_channels=1, logical_units_num=1),
        heads=[
            HeadGlobalPoolingClassifier(
                head_name="head_0",
                conv_inputs=[("model.backbone_features", 320)],
                layers_description=(8,),
                num_classes=2,
                pooling="avg",
                dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.01  # as there; ours follows PyTorch's 0.1
    batches = migration.loader(
        ["data.image", "data.label"], migration.images(8, 1, 80, 80, classes=2), migration.labels(8, 2)
    )
    losses = {"cls_loss": LossDefault(pred="model.logits.head_0", target="data.label", callable=F.cross_entropy)}
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
