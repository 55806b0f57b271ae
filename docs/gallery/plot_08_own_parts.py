"""
A loss, a head and a LightningModule of your own
================================================

You can write each part yourself. A loss, a head or a model only declares the keys that it reads and writes.
"""

import logging
import tempfile
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits

from fuse_core import DatasetWrapSeqToDict, check_contract, read_key
from fuse_lightning import (
    DataModuleDefault,
    EpochLosses,
    epoch_end_compute_and_log_losses,
    model_default_callbacks,
    step_extract_predictions,
    step_losses,
)
from fuse_losses import LossBase, LossDense
from fuse_models import BackboneMultilayerPerceptron, ModelMultiHead

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
pl.seed_everything(0)

# %%
# A head
# ------
# It takes the batch_dict and returns it. This one predicts a mean and a variance.


class HeadWithVariance(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.reads = ("model.backbone_features",)
        self.writes = ("model.output.ink", "model.variance.ink")
        self.layer = torch.nn.Linear(features, 2)

    def forward(self, batch_dict):
        mean, spread = self.layer(batch_dict["model.backbone_features"]).chunk(2, dim=1)
        batch_dict["model.output.ink"] = mean
        batch_dict["model.variance.ink"] = torch.nn.functional.softplus(spread) + 1e-3
        return batch_dict


# %%
# Two losses
# ----------
# A loss needs only ``compute``. It returns a scalar. ``read_key`` reads a value; if the key is missing, the error names
# the loss. A loss for classes or voxels is a subclass of ``LossDense``, which applies masks, class weights,
# ``ignore_index`` and the mean. :doc:`/how-to/own-loss` explains both.


class LossGaussian(LossBase):
    def compute(self, batch_dict):
        mean, variance, target = (read_key(batch_dict, key, "LossGaussian") for key in self.reads)
        return 0.5 * (variance.log() + (mean - target).square() / variance).mean()


class LossBrier(LossDense):
    values_for = "voxel and class"

    def values(self, probabilities, truth):
        return (probabilities - truth).square()


print(LossBrier(ignore_index=9, class_weights=[2.0, 1.0])(torch.zeros(3, 2), torch.tensor([0, 1, 9])))

# %%
# A LightningModule
# -----------------
# It uses the functions that ``LightningModuleDefault`` is built from. Change any line.

model = ModelMultiHead(
    BackboneMultilayerPerceptron([64], mlp_input_size=64), [HeadWithVariance(64)], conv_inputs=[("data.pixels", 64)]
)
losses = {"gaussian": LossGaussian(reads=["model.output.ink", "model.variance.ink", "data.ink"])}
run_dir = tempfile.mkdtemp()


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.losses = model, torch.nn.ModuleDict(losses)
        self.sums = {"train": EpochLosses(), "validation": EpochLosses()}
        self.history = []

    def configure_callbacks(self):
        return model_default_callbacks(
            run_dir, {"monitor": "validation.losses.total_loss", "mode": "min"}, log_lr=False
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)

    def on_train_epoch_start(self):
        self.sums["train"].reset()

    def training_step(self, batch, batch_idx):
        total = step_losses(self.losses, self.model(batch))
        self.sums["train"].update(batch)
        return total

    def on_validation_epoch_start(self):
        self.sums["validation"].reset()

    def validation_step(self, batch, batch_idx):
        step_losses(self.losses, self.model(batch))
        self.sums["validation"].update(batch)

    def on_validation_epoch_end(self):
        epoch_end_compute_and_log_losses(self, "validation", self.sums["validation"])
        self.history.append(float(self.trainer.callback_metrics["validation.losses.gaussian"]))

    def on_train_epoch_end(self):
        epoch_end_compute_and_log_losses(self, "train", self.sums["train"])

    def predict_step(self, batch, batch_idx):
        return step_extract_predictions(["model.output.ink", "model.variance.ink", "data.ink"], self.model(batch))


pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 16
ink = pixels[:, 24:40].sum(1, keepdim=True) / 4 + 0.3 * pixels[:, :1] + 0.2 * torch.randn(len(pixels), 1)
samples = list(zip(pixels, ink, strict=True))
keys = ["data.pixels", "data.ink"]
data = DataModuleDefault(
    train=DatasetWrapSeqToDict(samples[:1200], keys),
    validation=DatasetWrapSeqToDict(samples[1200:1500], keys),
    test=DatasetWrapSeqToDict(samples[1500:], keys),
    batch_size=64,
)

# %%
# ``check_contract`` checks that the parts fit together. It runs them on fake tensors, which need no memory:

print(check_contract({"model": model, **losses}, next(iter(data.train_dataloader()))))

# %%
# Training and prediction

module = Module()
trainer = pl.Trainer(
    max_epochs=6, default_root_dir=run_dir, logger=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(module, data)
predictions = trainer.predict(module, data)
mean, variance, target = (
    torch.cat([batch[key] for batch in predictions])[:, 0]
    for key in ("model.output.ink", "model.variance.ink", "data.ink")
)
inside = ((mean - target).abs() < 1.96 * variance.sqrt()).float().mean()
print(f"{inside:.1%} of the test samples lie in the predicted 95 % interval")
assert 0.85 < inside <= 1

figure, axis = plt.subplots(figsize=(6, 3.4))
order = target.argsort()[::6]
axis.errorbar(target[order], mean[order], 1.96 * variance[order].sqrt(), fmt="o", ms=3, lw=0.8, color="#0072b2")
axis.axline((float(target.mean()), float(target.mean())), slope=1, color="gray", linestyle=":")
axis.set_xlabel("target")
axis.set_ylabel("prediction and its 95 % interval")
plt.show()
