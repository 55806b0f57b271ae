import pytest
import torch
from torch import nn

from fuse_models import BackboneViT


def vit(ndim=2, **options):
    options = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "ndim": ndim} | options
    return BackboneViT(2, **options)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("pool", [None, "class", "avg"])
def test_it_gives_a_location_a_patch_or_a_vector(ndim, pool):
    backbone = vit(ndim, pool=pool)
    shape = (3, 24) if pool else (3, 24, *[4] * ndim)
    assert backbone(torch.randn(3, 2, *[16] * ndim)).shape == shape


def test_locations_stand_where_their_patches_are():
    torch.manual_seed(0)
    backbone = vit(image_size=(8, 16), patch_size=(4, 2)).eval()
    x = torch.randn(1, 2, 8, 16)
    changed = x.clone()
    changed[:, :, 4:8, 6:8] += 1
    difference = (backbone(x) - backbone(changed)).abs().sum(1)[0]
    assert difference.shape == (2, 8)
    assert divmod(int(difference.argmax()), 8) == (1, 3)


def test_the_mean_and_the_map_are_of_the_same_tokens():
    mapped, pooled = vit().eval(), vit(pool="avg").eval()
    pooled.load_state_dict(mapped.state_dict())
    x = torch.randn(2, 2, 16, 16)
    torch.testing.assert_close(pooled(x), mapped(x).mean((2, 3)))


def test_timms_weights_give_timms_outputs():
    timm = pytest.importorskip("timm", reason="timm needs torchvision: see the group test-torch2_6")
    torch.manual_seed(0)
    peer = timm.create_model("vit_tiny_patch16_224", num_classes=7, depth=3).eval()
    for parameter in peer.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 0.5)
    options = {"embed_dim": 192, "depth": 3, "num_heads": 3, "weights": peer.state_dict()}
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        tokens = peer.forward_features(x)
        backbone = BackboneViT(pool="class", **options).eval()
        torch.testing.assert_close(backbone(x), tokens[:, 0], rtol=1e-5, atol=1e-5)
        patches = BackboneViT(**options).eval()(x)
        torch.testing.assert_close(patches.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-5, atol=1e-5)
    assert set(backbone.load_report.left) == {"head.weight", "head.bias"}


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"image_size=\(16, 16\)\) takes inputs of this size, got .*\(1, 2, 16, 32\)"):
        vit()(torch.zeros(1, 2, 16, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 4}, r"\(ndim=\) takes 2 for images or 3 for volumes, got 4"),
        ({"patch_size": 5}, r"image_size=\(16, 16\)\) must be divisible by patch_size=\(5, 5\)"),
        ({"image_size": (16, 16, 16)}, r"\(image_size=\) takes 2 positive integers, got \(16, 16, 16\)"),
        ({"num_heads": 5}, r"embed_dim=24\) must be divisible by num_heads=5"),
        ({"depth": 0}, r"\(depth=\) takes a positive integer, got 0"),
        ({"pool": "cls"}, r"\(pool=\) takes one of None, 'class', 'avg', got 'cls'\. Did you mean 'class'"),
        ({"pool": "class", "class_token": False}, r"pool='class'\) needs class_token=True"),
        ({"dropout_rate": 1.0}, r"\(dropout_rate=\) takes a number from 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"BackboneViT.*{message}"):
        vit(**options)
