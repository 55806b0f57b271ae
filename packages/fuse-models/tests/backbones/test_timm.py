import importlib.util

import pytest
import torch

from fuse_models import BackboneTimm, HeadGlobalPoolingClassifier, ModelMultiHead

HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm needs torchvision: see the group test-torch2_6")

NAMES = {  # by the kind of output that timm gives
    "test_resnet": 64,
    "test_vit": 160,
    "test_convnext": 64,
    "swin_tiny_patch4_window7_224": 224,
    "cait_xxs24_224": 224,
    "mobilenetv3_small_050": 64,
}


@needs_timm
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", ["map", "vector"])
def test_the_output_has_the_depth_that_is_told(name, output):
    backbone = BackboneTimm(name, 1, output).eval()
    with torch.inference_mode():
        features = backbone(torch.randn(1, 1, NAMES[name], NAMES[name]))
    assert features.shape[:2] == (1, backbone.feature_depth)
    assert features.ndim == (4 if output == "map" else 2)


@needs_timm
def test_tokens_stand_where_their_patches_are():
    torch.manual_seed(0)
    backbone = BackboneTimm("test_vit", img_size=(64, 128)).eval()
    x = torch.randn(1, 3, 64, 128)
    changed = x.clone()
    changed[:, :, 16:32, 80:96] += 3
    with torch.inference_mode():
        difference = (backbone(x) - backbone(changed)).abs().sum(1)[0]
    assert difference.shape == (4, 8)
    assert divmod(int(difference.argmax()), 8) == (1, 5)


@needs_timm
def test_it_trains_with_a_head():
    backbone = BackboneTimm("mobilenetv3_small_050", 1)
    head = HeadGlobalPoolingClassifier("cls", [("model.backbone_features", backbone.feature_depth)])
    model = ModelMultiHead(backbone, [head], conv_inputs=["data.x"])
    model({"data.x": torch.randn(2, 1, 64, 64)})["model.logits.cls"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    frozen = [name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["conv_head.weight", "conv_head.bias"]  # behind the map
    assert not any(parameter.is_meta for parameter in model.parameters())


@needs_timm
def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"BackboneTimm\(name=\) .* got 'resnet81'\. Did you mean 'resnet18'"):
        BackboneTimm("resnet81")


@pytest.mark.skipif(HAS_TIMM, reason="timm is installed")
def test_without_timm_the_extra_is_named():
    with pytest.raises(ImportError, match=r"pip install 'fuse-models\[timm\]'"):
        BackboneTimm("resnet18")


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match=r"BackboneTimm\(output=\) takes one of 'map', 'vector', got 'tokens'"):
        BackboneTimm("resnet18", output="tokens")
