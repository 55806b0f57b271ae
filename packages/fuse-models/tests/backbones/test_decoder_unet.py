import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneResnet,
    BackboneResnet3D,
    DecoderUNet,
    HeadDenseSegmentation,
    ModelMultiHead,
)

CASES = {
    "resnet": (lambda: BackboneResnet(in_channels=1), (64, 96)),
    "resnet, odd sizes": (lambda: BackboneResnet(in_channels=1), (65, 47)),
    "resnet3d": (lambda: BackboneResnet3D(in_channels=1, first_channel_dim=4), (5, 32, 33)),
    "resnet3d of MONAI's kind": (
        lambda: BackboneResnet3D(in_channels=1, first_channel_dim=4, stem_stride=2, stem_pool=True),
        (32, 40, 32),
    ),
    "inception, cut": (lambda: BackboneInceptionResnetV2(12, in_channels=1), (96, 97)),
    "inception, stem": (lambda: BackboneInceptionResnetV2(0, in_channels=1), (80, 80)),
    "inception, cut after repeat": (lambda: BackboneInceptionResnetV2(10, in_channels=1), (80, 80)),
    "inception, last block": (lambda: BackboneInceptionResnetV2(32, in_channels=1), (96, 96)),
}
every_case = pytest.mark.parametrize(("make", "size"), CASES.values(), ids=CASES)


@every_case
def test_any_backbone_gives_maps_of_the_inputs_size(make, size):
    decoder = DecoderUNet(make()).eval()
    with torch.inference_mode():
        assert decoder(torch.randn(1, 1, *size)).shape == (1, decoder.feature_depth, *size)


@every_case
def test_backbones_tell_the_channels_and_strides_of_their_maps(make, size):
    backbone = make().eval()
    with torch.inference_mode():
        maps = backbone.feature_maps(torch.randn(1, 1, *size))
        last = backbone(torch.randn(1, 1, *size))
    assert [feature_map.shape[1] for feature_map in maps] == [info.channels for info in backbone.feature_info]
    assert maps[-1].shape == last.shape
    for feature_map, info in zip(maps, backbone.feature_info, strict=True):
        for length, stride, found in zip(size, info.stride, feature_map.shape[2:], strict=True):
            unpadded = 5 if isinstance(backbone, BackboneInceptionResnetV2) else 0  # locations that its stem loses
            assert 0 <= -(-length // stride) - found <= unpadded


def test_a_model_with_a_decoder_learns_to_segment():
    torch.manual_seed(0)
    decoder = DecoderUNet(BackboneResnet3D(in_channels=1, layers=[1, 1], first_channel_dim=4), channels=(8, 8))
    head = HeadDenseSegmentation("seg", [("model.backbone_features", decoder.feature_depth)], layers_description=())
    model = ModelMultiHead(decoder, [head], conv_inputs=["data.image"])
    volume = torch.randn(2, 1, 4, 8, 8)
    target = (volume[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(NDict({"data.image": volume}))["model.logits.seg"], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4  # log 2 without learning
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


class Levels(nn.Module):
    """A backbone of the user's own that returns a list of maps."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


def test_a_backbone_of_ones_own_needs_to_be_described():
    with pytest.raises(ValueError, match=r"DecoderUNet needs channels and strides of the maps, but Levels has no"):
        DecoderUNet(Levels())
    decoder = DecoderUNet(Levels(), feature_info=[(4, 1), (6, 2)])
    assert decoder(torch.zeros(1, 1, 9, 8)).shape == (1, decoder.feature_depth, 9, 8)
    wrong = DecoderUNet(Levels(), feature_info=[(4, 1), (8, 2)])
    with pytest.raises(ValueError, match=r"expects maps of \(4, 8\) channels from Levels, finest first, got \(4, 6\)"):
        wrong(torch.zeros(1, 1, 8, 8))


def test_volumes_for_a_decoder_of_images_are_refused():
    decoder = DecoderUNet(BackboneResnet(in_channels=1))
    with pytest.raises(ValueError, match=r"DecoderUNet\(ndim=2\) takes 2D inputs .*got the shape \(1, 1, 8, 32, 32\)"):
        decoder(torch.zeros(1, 1, 8, 32, 32))


def test_timms_feature_extractors_serve():
    timm = pytest.importorskip("timm", reason="timm needs torchvision: see the group test-torch2_6")
    decoder = DecoderUNet(timm.create_model("test_resnet", in_chans=1, features_only=True))
    assert decoder(torch.zeros(2, 1, 64, 65)).shape == (2, decoder.feature_depth, 64, 65)
    swin = timm.create_model("swin_tiny_patch4_window7_224", in_chans=1, features_only=True, img_size=64)
    decoder = DecoderUNet(swin)  # whose maps have the channels last
    assert decoder(torch.zeros(2, 1, 64, 64)).shape == (2, decoder.feature_depth, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8)}, r"\(channels=\) takes 5 positive integers, got \(8, 8\)"),
        ({"ndim": 4}, r"\(ndim=\) takes 2 or 3, got 4"),
        ({"feature_info": [(4, 1)]}, r"DecoderUNet needs maps of two levels or more"),
        ({"feature_info": [(8, 4), (4, 2)]}, r"DecoderUNet needs the finest map first, got feature_info="),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecoderUNet(BackboneResnet(), **options)


def test_the_backbone_is_a_module():
    with pytest.raises(TypeError, match=r"DecoderUNet\(backbone=\) takes a module"):
        DecoderUNet(torch.relu)
