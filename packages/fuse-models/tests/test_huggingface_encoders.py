"""Encoders of Hugging Face's transformers, with random weights, serve as backbones."""

import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import Head1D, HeadGlobalPoolingClassifier, ModelMultiHead

transformers = pytest.importorskip("transformers", reason="installed beside torch 2.6: see the group test-torch2_6")

FEATURES = "model.backbone_features"


class Output(nn.Module):
    """One entry of the structure that an encoder returns."""

    def __init__(self, encoder, name):
        super().__init__()
        self.encoder, self.name = encoder, name

    def forward(self, image):
        return self.encoder(image)[self.name]


def vit():
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_channels=1,
    )
    head = Head1D("cls", conv_inputs=[(FEATURES, 32)], num_outputs=3)
    return Output(transformers.ViTModel(config), "pooler_output"), head


def resnet():
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    head = HeadGlobalPoolingClassifier("cls", [(FEATURES, 16)], num_classes=3)
    return Output(transformers.ResNetModel(config), "last_hidden_state"), head


@pytest.mark.parametrize("make", [vit, resnet])
@pytest.mark.parametrize("kind", [dict, NDict])
def test_an_encoder_trains_under_a_head(make, kind):
    torch.manual_seed(0)
    backbone, head = make()
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
    batch = model(kind({"data.image": torch.rand(4, 1, 32, 32)}))
    assert batch["model.output.cls"].shape == (4, 3)
    batch["model.logits.cls"].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values()), gradients.keys()
