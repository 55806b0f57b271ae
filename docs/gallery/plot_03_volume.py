"""
Segment a volume with a 3D U-Net
================================

The volume is real: the anatomical MR image of 33 x 41 x 25 voxels that nibabel ships for its tests. It has no
expert labels. So two thresholds make three classes from the image itself: dark (mostly fluid), gray and bright. The
network gets the image with strong noise, and predicts the classes of the clean image. It is trained on patches of one
half of the volume, and tested on the other half.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import torch

from fuse_core import NDict
from fuse_losses import LossCompound
from fuse_models import BackboneUNet, HeadDenseSegmentation, ModelMultiHead

torch.manual_seed(0)
FILE = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
volume = torch.tensor(nibabel.load(FILE).get_fdata(), dtype=torch.float32)
volume = (volume / volume.quantile(0.99)).contiguous()
classes = torch.bucketize(volume, torch.tensor([0.45, 0.72]))
noisy = volume + 0.25 * torch.randn(volume.shape)
print("voxels of each class:", classes.flatten().bincount().tolist())

# %%
# Patches
# -------
# A patch has 16 x 16 x 16 voxels of the left half, where x is below 16.


def patches(number):
    starts = torch.stack([torch.randint(size, (number,)) for size in (1, 41 - 16, 25 - 16)], 1).tolist()
    places = [tuple(slice(start, start + 16) for start in one) for one in starts]
    return NDict(
        {
            "data.image": torch.stack([noisy[place] for place in places])[:, None],
            "data.segmentation": torch.stack([classes[place] for place in places]),
        }
    )


backbone = BackboneUNet(in_channels=1, ndim=3, features_per_level=(8, 16))
head = HeadDenseSegmentation("tissue", [("model.backbone_features", 8)], num_classes=3, layers_description=())
model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
loss = LossCompound(
    pred="model.logits.tissue", target="data.segmentation", terms={"cross_entropy": 1.0, "generalized_dice": 1.0}
)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for _ in range(60):
    value = loss(model(patches(4)))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()

# %%
# The other half
# --------------
# The network is convolutional, so it takes the whole half at once. The sizes must be multiples of the stride, 2.

right = (slice(17, 33), slice(0, 40), slice(0, 24))
with torch.inference_mode():
    batch = model.eval()(NDict({"data.image": noisy[right][None, None]}))
predicted, true = batch["model.logits.tissue"].argmax(1)[0], classes[right]
for index, name in enumerate(("dark", "gray", "bright")):
    of_threshold = torch.bucketize(noisy[right].contiguous(), torch.tensor([0.45, 0.72])) == index
    both = [
        2 * (found & (true == index)).sum() / (found.sum() + (true == index).sum())
        for found in (predicted == index, of_threshold)
    ]
    print(f"Dice of {name}: {both[0]:.3f}; by the thresholds on the noisy image: {both[1]:.3f}")
    assert both[0] > both[1]

figure, axes = plt.subplots(1, 4, figsize=(11, 4.2))
pictures = {"clean": volume[right], "noisy, the input": noisy[right], "target": true, "prediction": predicted}
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture[:, :, 12], cmap="gray" if picture.is_floating_point() else "viridis")
    axis.set_title(title)
    axis.axis("off")
figure.tight_layout()
plt.show()
