"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import math

import torch

from fuse_core import NDict
from fuse_losses import LossDefault, LossDice, LossWarmUp

batch = NDict({"model.logits.cls": torch.zeros(2, 4, requires_grad=True), "data.label": torch.tensor([0, 3])})
loss = LossDefault(pred="model.logits.cls", target="data.label", callable=torch.nn.functional.cross_entropy)
value = loss(batch)
value.backward()
assert math.isclose(value.item(), math.log(4), rel_tol=1e-6)
assert batch["model.logits.cls"].grad is not None
print(f"cross-entropy of four equal logits: {value.item():.4f}")

logits = torch.randn(2, 3, 8, 8, requires_grad=True)
batch = NDict({"model.logits.seg": logits, "data.seg": torch.randint(3, (2, 8, 8))})
dice = LossWarmUp(loss=LossDice(pred="model.logits.seg", target="data.seg"), nof_iterations=1)
dice(batch).backward()
assert logits.grad.eq(0).all()
dice(batch).backward()
assert logits.grad.ne(0).any()
