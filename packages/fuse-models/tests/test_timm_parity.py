"""The same weights give the same output as in timm, where it installs; and timm's networks serve as backbones."""

import pytest
import torch

from fuse_core import NDict
from fuse_models import BackboneInceptionResnetV2, HeadGlobalPoolingClassifier, ModelMultiHead

REASON = "timm needs torchvision, which is installed beside torch 2.6: see the group test-torch2_6"
timm = pytest.importorskip("timm", reason=REASON)


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    model = timm.create_model("inception_resnet_v2", pretrained=False)
    with torch.no_grad():
        model(torch.randn(4, 3, 96, 96))  # gives the running statistics values of their own
    return model.eval()


def test_inception_resnet_v2_of_full_depth(peer):
    backbone = BackboneInceptionResnetV2(43, weights=peer.state_dict()).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x), peer.forward_features(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "cut", "layer"),
    [
        (0, 384, "mixed_5b"),
        (4, 384, "repeat.3"),
        (11, 384, "mixed_6a"),
        (14, 1088, "repeat_1.2"),
        (32, 384, "mixed_7a"),
        (35, 384, "repeat_2.2"),
        (42, 384, "block8"),
    ],
)
def test_each_kind_of_unit_ends_where_timms_layer_does(peer, unit, cut, layer):
    captured = []
    hook = peer.get_submodule(layer).register_forward_hook(lambda module, inputs, output: captured.append(output))
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        peer.forward_features(x)
        hook.remove()
        features = BackboneInceptionResnetV2(unit, cut, weights=peer.state_dict()).eval()(x)
    if cut == 1088:
        features = features.relu()  # the cut is before the block's ReLU
    torch.testing.assert_close(features, captured[0], rtol=1e-5, atol=1e-5)


def test_the_state_dicts_have_the_same_names_in_the_same_order(peer):
    names = [name for name in peer.state_dict() if not name.startswith("classif.")]
    assert list(BackboneInceptionResnetV2(43).state_dict()) == names


def test_grey_weights_are_adapted_as_by_timm(peer):
    adapted = timm.models.adapt_input_conv(1, peer.conv2d_1a.conv.weight.detach())
    backbone = BackboneInceptionResnetV2(0, in_channels=1, weights=peer.state_dict())
    torch.testing.assert_close(backbone.conv2d_1a.conv.weight, adapted)


@pytest.mark.parametrize("in_channels", [2, 4, 5])
def test_weights_for_other_channels_are_adapted_as_by_timm(peer, in_channels):
    adapted = timm.models.adapt_input_conv(in_channels, peer.conv2d_1a.conv.weight.detach())
    backbone = BackboneInceptionResnetV2(0, in_channels=in_channels, weights=peer.state_dict())
    torch.testing.assert_close(backbone.conv2d_1a.conv.weight, adapted)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_a_timm_network_is_a_backbone(name):
    torch.manual_seed(0)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", in_chans=1)
    head = HeadGlobalPoolingClassifier(
        head_name="cls", conv_inputs=[("model.backbone_features", backbone.num_features)], dropout_rate=0.0
    )
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
    batch = model(NDict({"data.image": torch.rand(2, 1, 64, 64)}))
    assert batch["model.backbone_features"].ndim == 4
    assert batch["model.output.cls"].shape == (2, 2)
    batch["model.logits.cls"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
