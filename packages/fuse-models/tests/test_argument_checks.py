"""Numbers of NumPy's types are numbers, also for torch.compile, which takes NumPy's numbers for tensors."""

import numpy as np
import pytest
import torch
from torch import nn

from fuse_models import (
    BackboneMultilayerPerceptron,
    BackboneResnet3D,
    BackboneTransformer,
    BackboneUNet,
    BackboneViT,
    Head1D,
    HeadDenseSegmentation,
    ModelMultistream,
)

one, two, three, four, eight = map(np.int64, (1, 2, 3, 4, 8))
rate = np.float32(0.25)
MODULES = {
    "perceptron": (lambda: BackboneMultilayerPerceptron(np.array([4, 3]), eight, dropout_rate=rate), (2, 8)),
    "resnet3d": (
        lambda: BackboneResnet3D(in_channels=one, layers=np.array([1, 1]), stem_kernel_size=three),
        (2, 1, 8, 8, 8),
    ),
    "transformer": (lambda: BackboneTransformer(None, eight, eight, one, two, max_length=four), (2, 4, 8)),
    "unet": (
        lambda: BackboneUNet(
            one, 2, np.array([4, 8]), np.array([1, 2]), kernel_sizes=three, blocks_per_level=np.array([1, 2])
        ),
        (2, 1, 8, 8),
    ),
    "vit": (lambda: BackboneViT(one, eight, np.array([4, 4]), eight, one, two, dropout_rate=rate), (2, 1, 8, 8)),
}


@pytest.mark.parametrize(("make", "shape"), MODULES.values(), ids=MODULES)
def test_backbones_take_numbers_of_numpy(make, shape):
    torch._dynamo.reset()
    backbone = make().eval()
    x = torch.randn(shape)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), backbone(x))
    assert type(backbone.feature_depth) is int


def test_heads_take_numbers_of_numpy():
    sizes = np.array([4, 3])
    vectors = [("data.clinical", two)]
    head = Head1D("risk", "regression", [("data.x", four)], three, vectors, sizes, sizes, rate, rate)
    dense = HeadDenseSegmentation("mask", [("data.map", two)], three, None, two, sizes, rate)
    batch = {"data.x": torch.randn(2, 4), "data.clinical": torch.randn(2, 2), "data.map": torch.randn(2, 2, 4, 4)}
    batch = dense(head(batch))
    assert batch["model.output.risk"].shape == (2, 3)
    assert batch["model.output.mask"].shape == (2, 3, 2, 2)


def test_declared_channels_may_be_numbers_of_numpy():
    model = ModelMultistream(("data.image", two), [nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)], heads=[])
    batch = model({"data.image": torch.randn(2, 2, 8, 8)})
    assert batch["model.backbone_features"].shape == (2, 8, 6, 6)


@pytest.mark.parametrize("wrong", [np.float64(8), np.int64(0), np.bool_(True), np.array([8, 8])])
def test_other_values_of_numpy_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\(mlp_input_size=\) takes a positive integer, got"):
        BackboneMultilayerPerceptron([4], wrong)


def test_a_plan_without_entries_is_not_the_default():
    with pytest.raises(ValueError, match=r"\(blocks_per_level=\) takes 2 positive integers, got \[\]"):
        BackboneUNet(1, 2, (4, 8), blocks_per_level=[])
