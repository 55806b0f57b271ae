"""
Classify digits
===============

A small network learns the 1,797 handwritten digits that scikit-learn ships, 8 x 8 pixels each. The model, the loss
and the metric get their keys as arguments. :py:obj:`~fuse_lightning.LightningModuleDefault` trains, logs and writes
checkpoints.
"""

import logging
import tempfile
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import DatasetWrapSeqToDict
from fuse_lightning import DataModuleDefault, LightningModuleDefault, MetricDefault
from fuse_losses import LossDefault
from fuse_models import HeadGlobalPoolingClassifier, ModelMultiHead

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
pl.seed_everything(0)

# %%
# The data
# --------
# A sample is a tuple of an image and a label. ``DatasetWrapSeqToDict`` gives each of the two a key.

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
samples = list(zip(images, torch.tensor(digits.target), strict=True))
keys = ["data.image", "data.label"]
data = DataModuleDefault(
    train=DatasetWrapSeqToDict(samples[:1200], keys, name="train"),
    validation=DatasetWrapSeqToDict(samples[1200:1500], keys, name="validation"),
    test=DatasetWrapSeqToDict(samples[1500:], keys, name="test"),
    batch_size=64,
)

# %%
# The model, the loss and the metric
# ----------------------------------
# Any module can be the backbone. Its output is written to ``model.backbone_features``. The head reads it, and writes
# ``model.logits.digit`` and ``model.output.digit``.

backbone = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(32, 64, 3, padding=1),
    torch.nn.ReLU(),
)
head = HeadGlobalPoolingClassifier("digit", [("model.backbone_features", 64)], num_classes=10)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
run_dir = tempfile.mkdtemp()

module = LightningModuleDefault(
    model_dir=run_dir,
    model=model,
    losses={"cls": LossDefault(pred="model.logits.digit", target="data.label", callable=F.cross_entropy)},
    validation_metrics={
        "accuracy": MetricDefault(pred="model.logits.digit", target="data.label", metric=MulticlassAccuracy(10))
    },
    optimizers_and_lr_schs=lambda module: torch.optim.Adam(module.parameters(), lr=3e-3),
    best_epoch_source={"monitor": "validation.metrics.accuracy", "mode": "max"},
    prediction_keys=["model.output.digit", "data.label"],
)

# %%
# Before the training, this table shows which component reads and writes which key:

print(module.wiring(next(iter(data.train_dataloader()))))

# %%
# Training
# --------
# After each epoch a table shows the best and the current epoch side by side.

trainer = pl.Trainer(
    max_epochs=8, default_root_dir=run_dir, logger=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(module, data)

# %%
# The test set
# ------------
# ``predict`` returns the predictions batch by batch.

predictions = trainer.predict(module, data, ckpt_path="best", weights_only=True)
probabilities = torch.cat([batch["model.output.digit"] for batch in predictions])
labels = torch.cat([batch["data.label"] for batch in predictions])
accuracy = (probabilities.argmax(1) == labels).float().mean()
print(f"test accuracy {accuracy:.3f} of {len(labels)} digits")
assert accuracy > 0.9

# %%
# These are the digits with the lowest probability of the true class:

of_true_class = probabilities.gather(1, labels[:, None])[:, 0]
figure, axes = plt.subplots(2, 6, figsize=(9, 3.6))
for axis, index in zip(axes.flat, of_true_class.argsort(), strict=False):
    axis.imshow(images[1500 + index, 0], cmap="gray_r")
    axis.set_title(f"{labels[index]} read as {probabilities[index].argmax()}", fontsize=9)
    axis.axis("off")
figure.tight_layout()
plt.show()
