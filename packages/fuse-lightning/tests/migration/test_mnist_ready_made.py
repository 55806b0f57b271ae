"""Handwritten digits with LightningModuleDefault, as in fuse-med-ml's starter example."""

import torch.nn.functional as F
from torch import Tensor, nn

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

    migration.check_classifier(expected, tmp_path, model, batches, "digit", metric="accuracy", classes=4)
