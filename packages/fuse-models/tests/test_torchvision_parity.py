"""The same weights give the same output as in torchvision, where it installs."""

import pytest
import torch

from fuse_models import BackboneResnet, BackboneResnet3D

REASON = "torchvision comes for one torch each, and is installed beside torch 2.6: see the group test-torch2_6"
torchvision = pytest.importorskip("torchvision", reason=REASON)


def randomised(model):
    """Statistics and affine parameters unlike those of a new network, so that nothing can be left out unnoticed."""
    for name, tensor in model.state_dict().items():
        if "bn" in name or "downsample.1" in name or ("conv" in name and tensor.ndim == 1):
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.5, 0.5)
    return model.eval()


def features_of(model, x):
    """What torchvision's network computes in front of its classifier, pooled."""
    model.fc = torch.nn.Identity()
    return model(x)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_resnets_of_images(name):
    torch.manual_seed(0)
    peer = randomised(getattr(torchvision.models, name)())
    backbone = BackboneResnet(name=name, weights=peer.state_dict(), pool="avg").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x), features_of(peer, x), rtol=1e-5, atol=1e-5)


def test_r3d_18():
    torch.manual_seed(0)
    peer = randomised(torchvision.models.video.r3d_18())
    backbone = BackboneResnet3D(weights=peer.state_dict(), pool="avg").eval()
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x), features_of(peer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_gradients_are_equal_too(name):
    torch.manual_seed(0)
    peer = getattr(torchvision.models, name)()
    backbone = BackboneResnet(name=name, weights=peer.state_dict(), pool="avg")
    x = torch.randn(4, 3, 64, 64)
    backbone(x).square().mean().backward()
    features_of(peer, x).square().mean().backward()
    expected = {parameter_name: parameter.grad for parameter_name, parameter in peer.named_parameters()}
    for parameter_name, parameter in backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[parameter_name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "peer"),
    [
        (BackboneResnet(), torchvision.models.resnet18()),
        (BackboneResnet(name="resnet50"), torchvision.models.resnet50()),
        (BackboneResnet3D(), torchvision.models.video.r3d_18()),
    ],
    ids=["resnet18", "resnet50", "r3d_18"],
)
def test_the_state_dicts_have_the_same_names_in_the_same_order(backbone, peer):
    names = [name for name in peer.state_dict() if not name.startswith("fc.")]
    assert list(backbone.state_dict()) == names


def test_a_torchvision_weights_enum_is_downloaded_with_its_hash_checked(monkeypatch):
    peer = torchvision.models.resnet18()
    asked = []

    def download(url, **options):
        asked.append((url, options))
        return peer.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    backbone = BackboneResnet(weights=torchvision.models.ResNet18_Weights.IMAGENET1K_V1)
    assert asked[0][0].endswith("resnet18-f37072fd.pth")
    assert asked[0][1]["check_hash"] is True
    assert backbone.conv1.weight.equal(peer.conv1.weight)
