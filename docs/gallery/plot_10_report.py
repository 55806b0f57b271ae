"""
Predictions to a file, and a page of results
============================================

:py:obj:`~fuse_lightning.PredictionsToFile` writes a row for each sample during the prediction.
:py:obj:`~fuse_lightning.RunReport` writes a page of the run, ``index.html``: one file that needs no network. All its
numbers can be computed again from ``predictions.csv``.
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

from fuse_lightning import DataModuleDefault, LightningModuleDefault, PredictionsToFile, RunReport
from fuse_lightning.cli.digits import digits
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
pl.seed_everything(0)
data = DataModuleDefault(train=digits("train"), validation=digits("validation"), test=digits("test"), batch_size=32)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
run_dir = Path(tempfile.mkdtemp())

# %%
# The two callbacks
# -----------------
# The page shows the images with the worst predictions. ``image`` is their key.

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
# The run folder
# --------------

for path in sorted(run_dir.iterdir()):
    print(f"{path.name:47} {path.stat().st_size / 1024:8.1f} KiB")

# %%
# This computes a number of the page from the file alone. The first column identifies the sample. Then come the
# probabilities and the label.

with (run_dir / "predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
print(list(rows[0])[:4], "...")
probabilities = torch.tensor([[float(row[f"model.output.digit.{digit}"]) for digit in range(10)] for row in rows])
label = torch.tensor([int(float(row["data.label"])) for row in rows])
right = probabilities.argmax(1) == label
print(f"accuracy {right.float().mean():.4f} of {len(rows)} samples")
assert f"{right.float().mean():.4f}" in (run_dir / "index.html").read_text()


# %%
# The plot shows whether the probabilities are calibrated: with a confidence of 0.8, 80 % of the predictions should be
# right.

confidence = probabilities.max(1).values
bins = (confidence * 5).long().clamp(max=4)
for number in bins.unique():
    inside = bins == number
    plt.bar(confidence[inside].mean(), right[inside].float().mean(), width=0.1, color="#0072b2")
plt.plot([0, 1], [0, 1], color="gray")
plt.xlabel("confidence")
plt.ylabel("share of right predictions")
plt.show()
