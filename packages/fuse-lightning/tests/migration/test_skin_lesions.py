"""Three classes from an image and tabular features."""

import pytest
import torch.nn.functional as F
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import BackboneResnet, HeadGlobalPoolingClassifier, ModelMultiHead

OUTPUT = "model.output.head_0"


def test_skin_lesions_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    model = ModelMultiHead(
        conv_inputs=(("data.image", 3),),
        backbone=BackboneResnet(in_channels=3, name="resnet18"),
        heads=[
            HeadGlobalPoolingClassifier(
                head_name="head_0",
                conv_inputs=[("model.backbone_features", 512)],
                append_features=[("data.clinical", 5)],  # there tabular_data_inputs
                append_layers_description=(6,),  # there tabular_layers_description
                layers_description=(8,),
                num_classes=3,
                pooling="avg",
                dropout_rate=0.0,
            )
        ],
    )
    migration.set_weights(model.parameters())
    batches = migration.loader(
        ["data.image", "data.clinical", "data.label"],
        migration.images(8, 3, 64, 64, classes=3),
        migration.scattered(8, 5),
        migration.labels(8, 3),
    )
    losses = {"cls_loss": LossDefault(pred="model.logits.head_0", target="data.label", callable=F.cross_entropy)}
    accuracy = MetricDefault(pred=OUTPUT, target="data.label", metric=MulticlassAccuracy(3, average="micro"))
    monitor = {"monitor": "validation.metrics.accuracy", "mode": "max"}

    logged, table = migration.train_and_predict(
        tmp_path, model, losses, {"accuracy": accuracy}, batches, OUTPUT, monitor, lr=1e-3
    )

    assert {name: logged[name] for name in expected["logged"]} == pytest.approx(expected["logged"], abs=1e-5)
    probabilities = table.filter(like=OUTPUT).to_numpy()
    assert probabilities[0] == pytest.approx(expected["predicted"], abs=1e-5)
    evaluated = (probabilities.argmax(1) == table["data.label"]).mean()
    assert evaluated == pytest.approx(expected["evaluated"]["metrics.accuracy"])
