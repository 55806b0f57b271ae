"""
Segment digits, with deep supervision
=====================================

A U-Net segments digits on noisy canvases. The loss is the sum of cross-entropy and Dice,
:py:obj:`~fuse_losses.LossCompound`. With deep supervision the network is also trained on its coarser maps: the model
writes a list of predictions under one key, and the loss takes the list.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from fuse_core import NDict
from fuse_losses import LossCompound
from fuse_models import BackboneUNet, HeadDenseSegmentation, ModelMultiHead

torch.manual_seed(0)

# %%
# The data
# --------
# Each canvas has a digit at a random place, and noise. Class 1 is the digit.

digits = torch.tensor(load_digits().images, dtype=torch.float32) / 16


def canvases(digits):
    canvas = torch.zeros(len(digits), 1, 32, 32)
    for one, digit, (row, column) in zip(canvas, digits, torch.randint(25, (len(digits), 2)).tolist(), strict=True):
        one[0, row : row + 8, column : column + 8] = digit
    return NDict(
        {"data.image": canvas + 0.15 * torch.randn(canvas.shape), "data.segmentation": (canvas[:, 0] > 0.3).long()}
    )


training, test = canvases(digits[:1000]), canvases(digits[1000:1200])

# %%
# The model and the loss
# ----------------------
# ``deep_supervision=(16,)`` are the channels of the coarser maps. The head has a layer for each of them. In the loss,
# the coarser map has half the weight of the finer one. ``resize_mode="maxpool"`` resizes the target to the coarser map,
# and keeps strokes that are thinner than a coarse pixel.

backbone = BackboneUNet(in_channels=1, ndim=2, features_per_level=(8, 16, 32), deep_supervision=True)
head = HeadDenseSegmentation(
    "digit", [("model.backbone_features", 8)], num_classes=2, layers_description=(), deep_supervision=(16,)
)
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
loss = LossCompound(
    pred="model.logits.digit",
    target="data.segmentation",
    terms={"cross_entropy": 1.0, "dice": {"weight": 1.0, "include_background": False}},
    resize_mode="maxpool",
)

# %%
# Training
# --------
# ``loss.terms`` holds the detached value of each term.

optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
history = []
for _ in range(120):
    batch = model(training.indices(torch.randint(1000, (16,))))
    value = loss(batch)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    history.append({name: one.item() for name, one in loss.terms.items()})
print("levels of the prediction:", [tuple(level.shape) for level in batch["model.logits.digit"]])

# %%
# In eval mode the model writes the finest map alone.

with torch.inference_mode():
    batch = model.eval()(test)
predicted, true = batch["model.logits.digit"].argmax(1), batch["data.segmentation"]
dice = 2 * (predicted * true).sum((1, 2)) / (predicted + true).sum((1, 2))
print(f"mean Dice over {len(dice)} test images: {dice.mean():.3f}, lowest: {dice.min():.3f}")
assert dice.mean() > 0.85

figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), width_ratios=[1, 1, 1, 1.5])
worst = dice.argmin()
pictures = {
    "image": test["data.image"][worst, 0],
    "target": true[worst],
    f"prediction, Dice {dice[worst]:.2f}": predicted[worst],
}
for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
    axis.imshow(picture, cmap="gray_r")
    axis.set_title(title, fontsize=10)
    axis.axis("off")
for (name, style), color in zip({"cross_entropy": "-", "dice": "--"}.items(), ("#0072b2", "#d55e00"), strict=True):
    axes[3].plot([one[name] for one in history], style, color=color, label=name)
axes[3].set_xlabel("step")
axes[3].set_title("terms of the loss", fontsize=10)
axes[3].legend()
figure.tight_layout()
plt.show()
