"""
Several tasks with partly missing labels
========================================

One network has two tasks: which digit is it, and how much ink is in it? Half of the samples lack the second label. This
is common when data of several studies are combined. A loss that counts only the labeled samples needs a few lines. It
also stores their number in ``self.counted``. Then the mean over an epoch is correct.
"""

import logging
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fuse_core import DatasetWrapSeqToDict, NDict, check_wiring, read_key
from fuse_lightning import DataModuleDefault, LightningModuleDefault
from fuse_losses import LossBase, LossDefault
from fuse_models import BackboneMultilayerPerceptron, Head1D, ModelMultiHead

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
torch.manual_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
ink = pixels.mean(1, keepdim=True)
ink = (ink - ink.mean()) / ink.std()
missing = torch.rand(len(ink)) < 0.5
samples = NDict(
    {
        "data.pixels": pixels,
        "data.digit": torch.tensor(digits.target),
        "data.ink": torch.where(missing[:, None], torch.nan, ink),
    }
)
print(f"{int(missing.sum())} of {len(ink)} samples have no ink label")

# %%
# The loss of the second task
# ---------------------------
# It reads prediction and label, and leaves out labels that are NaN. Its value is a mean over the other labels, and
# ``self.counted`` is their number. ``torch.where`` comes before the difference, so no NaN reaches the gradient.
#
# ``weight=0.5`` is the factor of this loss in the sum of both losses. The logged values of the loss include it.


class LossOfLabeled(LossBase):
    def compute(self, batch_dict):
        prediction, label = (read_key(batch_dict, key, "LossOfLabeled") for key in self.reads)
        labeled = ~label.isnan()
        self.counted = labeled.sum()
        squares = (prediction - torch.where(labeled, label, prediction)).square()
        return squares.sum() / labeled.sum().clamp(min=1)


features = [("model.backbone_features", 64)]
heads = [
    Head1D("digit", "classification", features, num_outputs=10, layers_description=()),
    Head1D("ink", "regression", features, num_outputs=1, layers_description=()),
]
model = ModelMultiHead(
    BackboneMultilayerPerceptron([128, 64], mlp_input_size=64), heads, conv_inputs=[("data.pixels", 64)]
)
losses = {
    "digit": LossDefault(pred="model.logits.digit", target="data.digit", callable=F.cross_entropy),
    "ink": LossOfLabeled(reads=["model.output.ink", "data.ink"], weight=0.5),
}
print(check_wiring({"model": model, **losses}, samples))

# %%
# Training
# --------
# The mean over an epoch weights each batch by ``counted``. In a loop of your own this is a sum and a division.

optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
history = []
for _ in range(20):
    sums, counts = dict.fromkeys(losses, 0.0), dict.fromkeys(losses, 0.0)
    for index in torch.randperm(1400).split(64):
        batch = model(samples.indices(index))
        values = {name: loss(batch) for name, loss in losses.items()}
        optimizer.zero_grad()
        sum(values.values()).backward()
        optimizer.step()
        for name, loss in losses.items():
            sums[name] += float(values[name].detach() * loss.counted)
            counts[name] += float(loss.counted)
    history.append({name: sums[name] / counts[name] for name in losses})

with torch.inference_mode():
    batch = model.eval()(samples.indices(slice(1400, None)))
accuracy = (batch["model.output.digit"].argmax(1) == batch["data.digit"]).float().mean()
error = (batch["model.output.ink"] - ink[1400:]).abs().mean()
print(f"test accuracy {accuracy:.3f}; mean error of the ink {error:.3f} standard deviations")
assert accuracy > 0.88
assert error < 0.3

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for (name, style), color in zip({"digit": "-", "ink": "--"}.items(), ("#0072b2", "#d55e00"), strict=True):
    axes[0].plot([one[name] for one in history], style, color=color, label=f"losses.{name}")
axes[0].set_xlabel("epoch")
axes[0].legend()
axes[1].scatter(ink[1400:], batch["model.output.ink"], s=8, color="#0072b2")
axes[1].axline((0, 0), slope=1, color="gray", linestyle=":")
axes[1].set_xlabel("ink, in standard deviations")
axes[1].set_ylabel("predicted")
figure.tight_layout()
plt.show()

# %%
# The same with Lightning
# -----------------------
# ``LightningModuleDefault`` takes the same model and losses. It weights the batches by ``counted``, and logs the means.
# Here it continues the training for one epoch.

pairs = list(zip(pixels, digits.target, samples["data.ink"], strict=True))
keys = ["data.pixels", "data.digit", "data.ink"]
data = DataModuleDefault(
    train=DatasetWrapSeqToDict(pairs[:1400], keys),
    validation=DatasetWrapSeqToDict(pairs[1400:], keys),
    batch_size=64,
)
module = LightningModuleDefault(
    model_dir=None,
    model=model.train(),
    losses=losses,
    optimizers_and_lr_schs=lambda module: torch.optim.Adam(module.parameters(), lr=2e-3),
)
trainer = pl.Trainer(
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(module, data)
for mode in ("train", "validation"):
    for name in ("digit", "ink", "total_loss"):
        print(f"{mode}.losses.{name}: {trainer.callback_metrics[f'{mode}.losses.{name}']:.4f}")
