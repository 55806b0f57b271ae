"""
An ensemble, its temperature and its uncertainty
================================================

Five runs differ only in their seed. :py:obj:`~fuse_models.ModelEnsemble` computes the average of their predictions, the
majority vote and the standard deviation. Then one number, the temperature, calibrates the probabilities.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fuse_core import NDict
from fuse_models import BackboneMultilayerPerceptron, Head1D, ModelEnsemble, ModelMultiHead

digits = load_digits()
torch.manual_seed(0)
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16 + 0.25 * torch.randn(1797, 64)
samples = NDict({"data.pixels": pixels, "data.label": torch.tensor(digits.target)})
training, validation, test = (samples.indices(slice(*ends)) for ends in ((0, 500), (500, 1000), (1000, 1797)))


def train(seed):
    torch.manual_seed(seed)
    head = Head1D("digit", "classification", [("model.backbone_features", 128)], num_outputs=10, layers_description=())
    model = ModelMultiHead(
        BackboneMultilayerPerceptron([128], mlp_input_size=64), [head], conv_inputs=[("data.pixels", 64)]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        batch = model(training.indices(torch.randint(500, (64,))))
        loss = F.cross_entropy(batch["model.logits.digit"], batch["data.label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# %%
# The ensemble
# ------------
# Here the models are in memory. ``ModelEnsemble.from_directories`` reads them from run folders. ``"vmap"`` runs five
# models of the same architecture in one pass.

ensemble = ModelEnsemble(
    [train(seed) for seed in range(5)], ["model.logits.digit", "model.output.digit"], execution="vmap"
).eval()
with torch.inference_mode():
    on_validation, on_test = ensemble(validation), ensemble(test)
print([key for key in on_test if "ensemble" in key][-3:])
average = on_test["model.logits.digit_ensemble_average"]
label = on_test["data.label"]
single = [(on_test[f"model.logits.digit_ensemble_{i}"].argmax(1) == label).float().mean().item() for i in range(5)]
together = (average.argmax(1) == label).float().mean().item()
print(f"accuracy of single runs {min(single):.3f} to {max(single):.3f}, of the ensemble {together:.3f}")
assert together >= sum(single) / 5

# %%
# Temperature
# -----------
# The logits are divided by a number. This number minimizes the cross-entropy on the validation set (Guo et al. 2017,
# "On calibration of modern neural networks"). The predicted class does not change.

log_temperature = torch.zeros((), requires_grad=True)
optimizer = torch.optim.LBFGS([log_temperature], max_iter=50)
logits = on_validation["model.logits.digit_ensemble_0"].clone()
target = on_validation["data.label"]


def closure():
    optimizer.zero_grad()
    value = F.cross_entropy(logits / log_temperature.exp(), target)
    value.backward()
    return value


optimizer.step(closure)
temperature = log_temperature.exp().item()
alone = on_test["model.logits.digit_ensemble_0"]
for name, scores in {"one run": alone, "one run, calibrated": alone / temperature, "ensemble": average}.items():
    print(f"{name}: cross-entropy {F.cross_entropy(scores, label):.3f}")
print(f"temperature {temperature:.2f}; above 1, so the run was overconfident")
assert F.cross_entropy(alone / temperature, label) < F.cross_entropy(alone, label)

# %%
# Uncertainty
# -----------
# The ensemble makes more errors where the probabilities of the runs differ more.

spread = on_test["model.output.digit_ensemble_std"].mean(1)
wrong = (average.argmax(1) != label).float()
by_spread = wrong[spread.argsort()].split(160)
assert by_spread[-1].mean() > 2 * by_spread[0].mean()
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
axes[0].bar(range(len(by_spread)), [one.mean() for one in by_spread], color="#0072b2")
axes[0].set_xlabel("fifth of the test samples, from agreement to disagreement")
axes[0].set_ylabel("share of errors")
for scores, name, style in (
    (alone, "one run", "o-"),
    (alone / temperature, "one run, calibrated", "s--"),
    (average, "ensemble", "^:"),
):
    confidence, predicted = scores.softmax(1).max(1)
    bins = [(confidence > low) & (confidence <= low + 0.1) for low in torch.arange(0.3, 1.0, 0.1).tolist()]
    points = [(confidence[one].mean(), (predicted == label)[one].float().mean()) for one in bins if one.sum() > 5]
    axes[1].plot(*zip(*points, strict=True), style, label=name)
axes[1].axline((0.5, 0.5), slope=1, color="gray", linewidth=1)
axes[1].set_xlabel("confidence")
axes[1].set_ylabel("accuracy")
axes[1].legend()
figure.tight_layout()
plt.show()
