"""A map of classes, learned with Dice on probabilities and cross-entropy."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_lightning import LightningModuleDefault, MetricDefault
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
    module = LightningModuleDefault(
        model_dir=tmp_path,
        model=model,
        losses=losses,
        train_metrics=metrics,
        validation_metrics=metrics,
        optimizers_and_lr_schs=torch.optim.SGD(model.parameters(), lr=0.05),
        best_epoch_source={"monitor": "validation.losses.total_loss", "mode": "min"},
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, default_root_dir=tmp_path, **quiet)

    trainer.fit(module, batches, batches)
    logged = {name: float(trainer.callback_metrics[name]) for name in expected["logged"]}
    module.set_predictions_keys([OUTPUT, "data.label"])
    predictions = trainer.predict(module, batches)  # maps: one batch after another

    assert logged == pytest.approx(expected["logged"], abs=1e-5)
    probabilities = torch.cat([batch[OUTPUT] for batch in predictions])
    masks = torch.cat([batch["data.label"] for batch in predictions])
    assert probabilities[0].flatten()[:12].tolist() == pytest.approx(expected["predicted"], abs=1e-5)
    evaluated = (probabilities.argmax(1) == masks).float().mean().item()
    assert evaluated == pytest.approx(expected["evaluated"]["metrics.accuracy"], abs=1e-6)
