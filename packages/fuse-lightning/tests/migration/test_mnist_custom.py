"""Handwritten digits with a LightningModule of one's own, built from the step functions."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import fuse_lightning as fuse_pl
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

LOGITS, OUTPUT = "model.logits.digit", "model.output.digit"


def softmax_too(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits, F.softmax(logits, dim=1)


class Custom(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = ModelWrapSeqToDict(
            model=nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)),
            model_inputs=["data.image"],
            post_forward_processing_function=softmax_too,
            model_outputs=[LOGITS, OUTPUT],
        )
        self.losses = nn.ModuleDict(
            {"cls_loss": LossDefault(pred=LOGITS, target="data.label", callable=F.cross_entropy)}
        )
        metric = MulticlassAccuracy(4, average="micro")
        self.validation_metrics = nn.ModuleDict(
            {"accuracy": fuse_pl.MetricDefault(pred=OUTPUT, target="data.label", metric=metric)}
        )
        self.training_losses = fuse_pl.EpochLosses()

    def training_step(self, batch_dict, batch_idx):
        batch_dict = self.model(batch_dict)
        total_loss = fuse_pl.step_losses(self.losses, batch_dict)
        self.training_losses.update(batch_dict)
        return total_loss

    def validation_step(self, batch_dict, batch_idx):
        batch_dict = self.model(batch_dict)
        fuse_pl.step_metrics(self.validation_metrics, batch_dict)

    def predict_step(self, batch_dict, batch_idx):
        batch_dict = self.model(batch_dict)
        return fuse_pl.step_extract_predictions([OUTPUT], batch_dict)

    def on_train_epoch_end(self):
        fuse_pl.epoch_end_compute_and_log_losses(self, "train", self.training_losses)

    def on_validation_epoch_end(self):
        fuse_pl.epoch_end_compute_and_log_metrics(self, "validation", self.validation_metrics)

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.parameters(), lr=0.01)


def test_digits_custom_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    module = Custom()
    migration.set_weights(module.model.parameters())
    batches = migration.loader(
        ["data.image", "data.label"], migration.images(20, 1, 8, 8, classes=4), migration.labels(20, 4)
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, default_root_dir=tmp_path, **quiet)

    trainer.fit(module, batches, batches)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    table = fuse_pl.convert_predictions_to_dataframe(trainer.predict(module, batches))

    assert logged == pytest.approx(expected["logged"], abs=1e-5)
    assert table.filter(like=OUTPUT).to_numpy()[0] == pytest.approx(expected["predicted"], abs=1e-5)
