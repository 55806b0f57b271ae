"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import torch

from fuse_core import NDict
from fuse_models import ModelWrapSeqToDict

model = ModelWrapSeqToDict(model=torch.nn.Linear(3, 2), model_inputs=["data.x"], model_outputs=["model.logits.cls"])
batch = model(NDict({"data.x": torch.zeros(5, 3)}))
assert batch["model.logits.cls"].equal(model.bias.expand(5, 2))
print(f"logits of shape {tuple(batch['model.logits.cls'].shape)}")
