"""MONAI's networks serve as backbones as they are."""

import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import Head3D, HeadDenseSegmentation, HeadGlobalPoolingClassifier, ModelMultiHead

networks = pytest.importorskip("monai.networks.nets", reason="MONAI is a test dependency")


def train(model, batch, loss_of):
    """A few steps; the losses of the first and the last."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = loss_of(model(batch.copy()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in model.parameters())
    return losses[0], losses[-1]


def test_a_unet_under_a_dense_head():
    torch.manual_seed(0)
    backbone = networks.UNet(spatial_dims=3, in_channels=1, out_channels=8, channels=(4, 8), strides=(2,))
    head = HeadDenseSegmentation("lesion", conv_inputs=[("model.backbone_features", 8)], layers_description=())
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
    image = torch.rand(2, 1, 8, 8, 8)
    batch = NDict({"data.image": image, "data.mask": (image[:, 0] > 0.5).long()})
    first, last = train(
        model, batch, lambda batch: nn.functional.cross_entropy(batch["model.logits.lesion"], batch["data.mask"])
    )
    assert last < 0.7 * first


def test_a_densenets_features_under_a_classification_head():
    torch.manual_seed(0)
    densenet = networks.DenseNet(
        spatial_dims=3, in_channels=1, out_channels=2, init_features=8, growth_rate=4, block_config=(2, 2)
    )
    channels = densenet.class_layers.out.in_features
    head = Head3D("cls", conv_inputs=[("model.backbone_features", channels)], layers_description=(16,), pooling="avg")
    model = ModelMultiHead(densenet.features, [head], conv_inputs=[("data.image", 1)])
    batch = NDict({"data.image": torch.rand(8, 1, 16, 16, 16), "data.label": torch.tensor([0, 1] * 4)})
    first, last = train(
        model, batch, lambda batch: nn.functional.cross_entropy(batch["model.logits.cls"], batch["data.label"])
    )
    assert last < 0.5 * first


@pytest.mark.parametrize("kind", [dict, NDict])
def test_densenet121_needs_no_wrapper(kind):
    densenet = networks.DenseNet121(spatial_dims=2, in_channels=1, out_channels=2)
    head = HeadGlobalPoolingClassifier("cls", [("model.backbone_features", 1024)])
    model = ModelMultiHead(densenet.features, [head], conv_inputs=[("data.image", 1)]).eval()
    assert model(kind({"data.image": torch.rand(2, 1, 64, 64)}))["model.output.cls"].shape == (2, 2)


@pytest.mark.parametrize("kind", [dict, NDict])
def test_swin_unetr_needs_no_wrapper(kind):
    pytest.importorskip("einops", reason="MONAI's SwinUNETR needs einops, which timm's group brings")
    backbone = networks.SwinUNETR(in_channels=1, out_channels=8, feature_size=12, spatial_dims=3)
    head = HeadDenseSegmentation("lesion", [("model.backbone_features", 8)], layers_description=())
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)]).eval()
    with torch.inference_mode():
        batch = model(kind({"data.image": torch.rand(1, 1, 64, 64, 64)}))
    assert batch["model.output.lesion"].shape == (1, 2, 64, 64, 64)
