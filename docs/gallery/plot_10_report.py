"""
Predictions to a file, and a page of results
============================================

:py:obj:`~fuse_lightning.PredictionsToFile` writes a row for each sample while it predicts.
:py:obj:`~fuse_lightning.RunReport` makes a page of the run, ``index.html``, one file that needs no network and can be
sent alone. All its numbers can be computed again from ``predictions.csv``.
"""

import csv
import logging
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fuse_core import DatasetWrapSeqToDict
from fuse_lightning import DataModuleDefault, LightningModuleDefault, PredictionsToFile, RunReport
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
pl.seed_everything(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
samples = list(zip(images, torch.tensor(digits.target), strict=True))
keys = ["data.image", "data.label"]
data = DataModuleDefault(
    train=DatasetWrapSeqToDict(samples[:1200], keys, name="train"),
    validation=DatasetWrapSeqToDict(samples[1200:1500], keys, name="validation"),
    test=DatasetWrapSeqToDict(samples[1500:], keys, name="test"),
    batch_size=32,
)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
run_dir = Path(tempfile.mkdtemp())

# %%
# The two callbacks
# -----------------
# ``image`` is the key of the images that the page shows of the worst cases.

module = LightningModuleDefault(
    model_dir=run_dir,
    model=ModelWrapSeqToDict(
        model=network,
        model_inputs=["data.image"],
        model_outputs=["model.logits.digit", "model.output.digit"],
        post_forward_processing_function=lambda logits: (logits, logits.softmax(dim=1)),
    ),
    losses={"cls": LossDefault(pred="model.logits.digit", target="data.label", callable=F.cross_entropy)},
    optimizers_and_lr_schs=lambda module: torch.optim.Adam(module.parameters(), lr=1e-2),
    best_epoch_source={"monitor": "validation.losses.total_loss", "mode": "min"},
    prediction_keys=["model.output.digit", "data.label"],
)
callbacks = [
    PredictionsToFile(run_dir / "predictions.csv"),
    RunReport(run_dir, pred="model.output.digit", target="data.label", image="data.image", title="Digits"),
]
trainer = pl.Trainer(
    max_epochs=5,
    default_root_dir=run_dir,
    callbacks=callbacks,
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, data)
trainer.predict(module, data, ckpt_path="best", weights_only=True, return_predictions=False)

# %%
# What the run left
# -----------------

for path in sorted(run_dir.iterdir()):
    print(f"{path.name:28} {path.stat().st_size / 1024:8.1f} KiB")

# %%
# The numbers of the page, from the file alone. The first column identifies the sample, then come the probabilities
# and the label.

with (run_dir / "predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
print(list(rows[0])[:4], "...")
probabilities = torch.tensor([[float(row[f"model.output.digit.{digit}"]) for digit in range(10)] for row in rows])
label = torch.tensor([int(float(row["data.label"])) for row in rows])
right = probabilities.argmax(1) == label
print(f"accuracy {right.float().mean():.4f} of {len(rows)} samples")
assert f"{right.float().mean():.4f}" in (run_dir / "index.html").read_text()

counts = torch.bincount(10 * label + probabilities.argmax(1), minlength=100).reshape(10, 10)
figure, axis = plt.subplots(figsize=(4.6, 4))
axis.imshow(counts.float().sqrt(), cmap="Blues")
for true in range(10):
    for predicted in range(10):
        if counts[true, predicted]:
            color = "white" if counts[true, predicted] > 15 else "black"
            axis.text(predicted, true, int(counts[true, predicted]), ha="center", va="center", fontsize=7, color=color)
axis.set_xticks(range(10))
axis.set_yticks(range(10))
axis.set_xlabel("predicted")
axis.set_ylabel("true")
plt.show()
