"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import torch

from fuse_core import NDict, collate, uncollate

samples = [NDict({"data": {"sample_id": i, "image": torch.full((1, 2, 2), float(i))}}) for i in range(3)]
batch = collate(samples)
assert batch["data"]["image"].shape == (3, 1, 2, 2)
assert uncollate(batch)[2]["data.image"].eq(2).all()
print(batch.describe())
