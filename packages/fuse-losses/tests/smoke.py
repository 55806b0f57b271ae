"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import math

import torch

from fuse_core import NDict
from fuse_losses import LossDefault

loss = LossDefault(pred="model.logits.cls", target="data.label", callable=torch.nn.functional.cross_entropy)
logits = torch.zeros(2, 4, requires_grad=True)
value = loss(NDict({"model.logits.cls": logits, "data.label": torch.tensor([0, 3])}))
value.backward()
assert math.isclose(value.item(), math.log(4), rel_tol=1e-6)
assert logits.grad is not None
print(f"cross-entropy of four equal logits: {value.item():.4f}")
