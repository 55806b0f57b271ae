"""
Image and clinical values in one model
======================================

A head can append a vector to the features of the image, such as age and laboratory values. Here the label depends on
both: it is 1 if the digit in the image is larger than a number in the table. Some samples lack the table.
``optional_inputs`` replaces it by a trained vector.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from fuse_core import NDict
from fuse_losses import LossFocal
from fuse_models import HeadGlobalPoolingClassifier, ModelMultiHead

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
target = torch.tensor(digits.target)
number = torch.randint(10, (len(target),))
table = torch.nn.functional.one_hot(number, 10).float()
samples = NDict(
    {
        "data.image": images,
        "data.table": table,
        "data.table_present": torch.rand(len(target)) < 0.9,
        "data.label": (target > number).long(),
    }
)


# %%
# Three models
# ------------
# One model gets the image, one the table, and one gets both. Only the arguments of the head differ.
# ``data.table_present`` is True for samples with a table.


def new_model(image, use_table):
    convolutions = [torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.Conv2d(32, 64, 3, padding=1)]
    backbone = torch.nn.Sequential(
        convolutions[0], torch.nn.ReLU(), torch.nn.MaxPool2d(2), convolutions[1], torch.nn.ReLU()
    )
    arguments = {
        "conv_inputs": [("model.backbone_features", 64)] if image else None,
        "append_features": [("data.table", 10)] if use_table else None,
        "append_layers_description": (32,) if use_table else (),
        "optional_inputs": {"data.table": "learned"} if use_table else None,
    }
    head = HeadGlobalPoolingClassifier("larger", num_classes=2, layers_description=(128,), **arguments)
    return ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)]) if image else head


def train(model, steps=600):
    loss = LossFocal(pred="model.logits.larger", target="data.label", gamma=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        value = loss(model(samples.indices(torch.randint(1400, (64,)))))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.inference_mode():
        batch = model.eval()(samples.indices(slice(1400, None)))
    right = batch["model.output.larger"].argmax(1) == batch["data.label"]
    return right, batch["data.table_present"]


accuracy = {}
for name, parts in {"image": (True, False), "table": (False, True), "both": (True, True)}.items():
    right, has_table = train(new_model(*parts))
    accuracy[name] = (right[has_table].float().mean().item(), right[~has_table].float().mean().item())
    print(f"{name}: {accuracy[name][0]:.3f} with a table, {accuracy[name][1]:.3f} without")
assert accuracy["both"][0] > max(accuracy["image"][0], accuracy["table"][0])

figure, axis = plt.subplots(figsize=(6, 3.2))
for offset, (index, label) in zip((-0.2, 0.2), enumerate(("samples with a table", "samples without")), strict=True):
    heights = [one[index] for one in accuracy.values()]
    bars = axis.bar(
        [position + offset for position in range(3)], heights, 0.38, label=label, color=("#0072b2", "#e69f00")[index]
    )
    axis.bar_label(bars, fmt="%.2f", fontsize=8)
axis.set_xticks(range(3), accuracy)
axis.set_ylim(0, 1.25)
axis.set_ylabel("test accuracy")
axis.legend(loc="upper left", ncols=2)
plt.show()
