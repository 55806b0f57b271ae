import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import BackboneUNet, HeadDenseSegmentation, ModelMultiHead, load_weights

EVERY_KIND = [(ndim, block) for ndim in (2, 3) for block in ("plain", "residual")]


def network(ndim=2, block="plain", **options):
    options = {"features_per_level": (4, 8, 16, 16), "strides": [1, 2, 2, [1, *[2] * (ndim - 1)]]} | options
    return BackboneUNet(2, ndim, block=block, **options)


def image(ndim=2, size=16, number=2):
    return torch.randn(number, 2, *[size] * ndim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_output_has_the_inputs_size(ndim, block, norm):
    backbone = network(ndim, block, norm=norm)
    assert backbone(image(ndim)).shape == (2, backbone.feature_depth, *[16] * ndim)


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
def test_the_maps_of_all_levels_have_the_channels_and_strides_that_are_told(ndim, block):
    backbone = network(ndim, block)
    maps = backbone.feature_maps(image(ndim))
    assert [feature_map.shape[1] for feature_map in maps] == [info.channels for info in backbone.feature_info]
    for feature_map, info in zip(maps, backbone.feature_info, strict=True):
        assert list(feature_map.shape[2:]) == [16 // stride for stride in info.stride]


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
def test_every_parameter_learns(ndim, block):
    torch.manual_seed(0)
    backbone = network(ndim, block)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    for _ in range(3):  # residual blocks start as their skip: their layers have a gradient from the second step on
        optimizer.zero_grad()
        (backbone(image(ndim)) - 1).square().mean().backward()
        optimizer.step()
    for name, parameter in backbone.named_parameters():  # a normalization takes away the bias before it
        assert parameter.grad.abs().sum() > 0 or name.endswith("conv.bias"), name


def test_deep_supervision_returns_the_decoders_maps_in_training_only():
    backbone = network(deep_supervision=True)
    maps = backbone(image())
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    assert backbone.eval()(image()).shape == (2, 4, 16, 16)


def test_a_model_with_deep_supervision_learns_to_segment():
    torch.manual_seed(0)
    head = HeadDenseSegmentation(
        "seg", [("model.backbone_features", 4)], layers_description=(), deep_supervision=(8, 16)
    )
    model = ModelMultiHead(network(deep_supervision=True), [head], conv_inputs=["data.image"])
    target = (image()[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        logits = model(NDict({"data.image": image()}))["model.logits.seg"]
        targets = [target[:, ::stride, ::stride] for stride in (1, 2, 4)]
        losses = [nn.functional.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    assert losses[0] < 0.2
    result = model.eval()(NDict({"data.image": image()}))
    assert (result["model.output.seg"].argmax(1) == target).float().mean() > 0.9


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
def test_it_compiles_in_one_graph(ndim, block):
    torch._dynamo.reset()
    backbone = network(ndim, block).eval()
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image(ndim)), backbone(image(ndim)))


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
def test_its_own_weights_load(ndim, block):
    first, second = network(ndim, block), network(ndim, block)
    assert load_weights(second, first.state_dict()).missing == ()
    assert second(image(ndim)).equal(first(image(ndim)))
    assert network(ndim, block, weights=first.state_dict())(image(ndim)).equal(first(image(ndim)))


@pytest.mark.parametrize(("ndim", "block"), EVERY_KIND)
def test_nnunets_networks_give_the_same_outputs(ndim, block):
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet", reason="needs timm: see the group test-torch2_6"
    )
    torch.manual_seed(0)
    convolution, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[ndim]
    plan = {
        "input_channels": 2,
        "n_stages": 4,
        "features_per_stage": [4, 8, 16, 16],
        "conv_op": convolution,
        "kernel_sizes": [[1, *[3] * (ndim - 1)], *[[3] * ndim] * 3],
        "strides": [[1] * ndim, [2] * ndim, [2] * ndim, [1, *[2] * (ndim - 1)]],
        "num_classes": 3,
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if block == "plain":
        peer = unet.PlainConvUNet(n_conv_per_stage=[2] * 4, n_conv_per_stage_decoder=[2] * 3, **plan)
    else:
        peer = unet.ResidualEncoderUNet(n_blocks_per_stage=[1, 3, 4, 6], n_conv_per_stage_decoder=[1] * 3, **plan)
    for parameter in peer.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    checkpoint = {"network_weights": peer.state_dict()}
    head = HeadDenseSegmentation("seg", [("model.backbone_features", 4)], 3, None, None, (), deep_supervision=(8, 16))
    options = {"kernel_sizes": plan["kernel_sizes"], "deep_supervision": True}
    model = ModelMultiHead(network(ndim, block, **options), [head], conv_inputs=["data.image"])
    report = load_weights(model, checkpoint)
    assert report.layout == "nnU-Net's U-Nets"
    assert report.missing == report.left == ()
    outputs = model(NDict({"data.image": image(ndim)}))["model.logits.seg"]
    torch.testing.assert_close(outputs, peer(image(ndim)), rtol=1e-5, atol=1e-5)
    backbone = network(ndim, block, weights=checkpoint, **options)
    assert all(name.startswith("decoder.seg_layers.") for name in backbone.load_report.left)
    torch.testing.assert_close(backbone(image(ndim))[0], model.backbone(image(ndim))[0])


@pytest.mark.parametrize("shape", [(1, 2, 16), (1, 2, 16, 16, 16), (1, 2, 16, 12)])
def test_inputs_of_another_rank_or_a_size_that_strides_do_not_divide(shape):
    message = r"BackboneUNet takes 2D inputs .* divisible by \(4, 8\), .* got the shape \(1, 2, 16"
    with pytest.raises(ValueError, match=message):
        network()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 1}, r"\(ndim=\) takes 2 for images or 3 for volumes, got 1"),
        ({"features_per_level": (4,)}, r"\(features_per_level=\) takes two levels or more, got \(4,\)"),
        ({"features_per_level": (4, 0)}, r"\(features_per_level=\) takes a sequence of positive integers"),
        ({"strides": 2}, r"\(strides=\) takes one value for each of the 4 features_per_level, got 2"),
        ({"strides": [1, 2]}, r"\(strides=\) takes one value for each of the 4 features_per_level, got \[1, 2\]"),
        ({"strides": [1, 2, 2, [2, 2, 2]]}, r"\(strides=\) takes 2 positive integers, got \(2, 2, 2\)"),
        ({"kernel_sizes": 2}, r"\(kernel_sizes=\) takes odd sizes, got 2"),
        ({"block": "residul"}, r"\(block=\) takes one of 'plain', 'residual', got 'residul'\. Did you mean 'residual'"),
        ({"norm": "layer"}, r"\(norm=\) takes one of 'instance', 'batch', got 'layer'"),
        ({"blocks_per_level": [2, 2]}, r"\(blocks_per_level=\) takes 4 positive integers, got \[2, 2\]"),
        ({"decoder_convs": [2] * 4}, r"\(decoder_convs=\) takes 3 positive integers"),
    ],
)
def test_a_wrong_plan_is_refused(options, message):
    options = {"ndim": 2, "features_per_level": (4, 8, 16, 16)} | options
    with pytest.raises(ValueError, match=f"BackboneUNet{message}"):
        BackboneUNet(2, **options)
