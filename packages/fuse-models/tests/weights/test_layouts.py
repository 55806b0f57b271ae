"""Weights with the names of other projects give the outputs that they give there."""

import pytest
import torch
from monai.networks.nets import resnet
from torch import nn

from fuse_models import (
    BackboneResnet3D,
    Head1D,
    Head3D,
    HeadDenseSegmentation,
    HeadGlobalPoolingClassifier,
    ModelMultiHead,
    load_weights,
)

LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def randomised(network):
    """Statistics and biases that are not those of a new network."""
    torch.manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("depth", LAYERS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("bias_downsample", [False, True])
def test_monais_resnets_give_monais_outputs(depth, shortcut, bias_downsample):
    block = resnet.ResNetBottleneck if depth >= 50 else resnet.ResNetBlock
    options = {"conv1_t_stride": 2, "n_input_channels": 1, "bias_downsample": bias_downsample}
    peer = randomised(resnet.ResNet(block, LAYERS[depth], [8, 16, 32, 64], shortcut_type=shortcut, **options))
    backbone = BackboneResnet3D(
        in_channels=1,
        layers=LAYERS[depth],
        first_channel_dim=8,
        stem_kernel_size=7,
        stem_stride=2,
        stem_pool=True,
        block="bottleneck" if depth >= 50 else "basic",
        shortcut=shortcut,
        weights={f"module.{name}": tensor for name, tensor in peer.state_dict().items()},
    ).eval()
    assert backbone.load_report.layout == "MONAI's and MedicalNet's 3D ResNets"
    assert set(backbone.load_report.left) == {"module.fc.weight", "module.fc.bias"}
    x = torch.randn(1, 1, 33, 40, 32)
    with torch.inference_mode():
        theirs = peer.maxpool(peer.act(peer.bn1(peer.conv1(x))))
        theirs = peer.layer4(peer.layer3(peer.layer2(peer.layer1(theirs))))
        torch.testing.assert_close(backbone(x), theirs, rtol=1e-4, atol=1e-4)


def test_monais_resnets_are_refused_without_the_pooling_of_their_stem():
    peer = resnet.resnet10(spatial_dims=3, n_input_channels=1, shortcut_type="B", bias_downsample=False)
    options = {"layers": LAYERS[10], "stem_kernel_size": 7, "stem_stride": 2}
    with pytest.raises(ValueError, match=r"stem ends in a max pooling, but stem_pool=False.* Give stem_pool=True"):
        BackboneResnet3D(in_channels=1, weights=peer.state_dict(), **options)


def test_monais_resnets_without_that_pooling_load_as_the_error_says():
    options = {"n_input_channels": 1, "bias_downsample": False, "no_max_pool": True}
    peer = randomised(resnet.ResNet(resnet.ResNetBlock, LAYERS[10], [8, 16, 32, 64], **options))
    options = {"layers": LAYERS[10], "first_channel_dim": 8, "stem_kernel_size": 7, "stem_stride": 1}
    with pytest.raises(ValueError, match=r"no_max_pool=True, use load_weights\(backbone, weights, strict=\['fc'\]\)"):
        BackboneResnet3D(in_channels=1, weights=peer.state_dict(), **options)
    backbone = BackboneResnet3D(in_channels=1, **options).eval()
    load_weights(backbone, peer.state_dict(), strict=["fc"])
    x = torch.randn(1, 1, 9, 16, 12)
    with torch.inference_mode():
        theirs = peer.act(peer.bn1(peer.conv1(x)))
        theirs = peer.layer4(peer.layer3(peer.layer2(peer.layer1(theirs))))
        torch.testing.assert_close(backbone(x), theirs, rtol=1e-4, atol=1e-4)


def test_weights_that_no_layout_knows_name_the_layouts_that_were_tried():
    peer = resnet.resnet10(spatial_dims=3, n_input_channels=1)
    message = (
        r"BackboneResnet3D\(weights=\): the weights do not fit: missing: stem\.0\.weight.*"
        r"with the names of MONAI's and MedicalNet's 3D ResNets: missing: layer1\.1\.conv1\.0\.weight"
    )
    with pytest.raises(ValueError, match=message):
        BackboneResnet3D(in_channels=1, stem_kernel_size=7, weights=peer.state_dict())


def fusemedml_names(head_name, kernel):
    """The weights of a head as FuseMedML saves them: convolutions of kernel 1, in a list called `classifier`."""
    ones, layer = (1,) * kernel, {"Head1D": "head_module", "Head3D": "conv_classifier_3d"}
    classifier = layer.get(head_name, "classifier_head_module")
    appended = "tabular_module" if head_name == "HeadGlobalPoolingClassifier" else "append_features_module"
    last = 2 if head_name == "Head3D" else 3  # behind a dropout
    vectors = {"Head1D": 5, "HeadDenseSegmentation": 0}.get(head_name, 5)
    weights = {
        f"{classifier}.classifier.0.weight": torch.randn(8, 6 + vectors, *ones),
        f"{classifier}.classifier.0.bias": torch.randn(8),
        f"{classifier}.classifier.{last}.weight": torch.randn(3, 8, *ones),
        f"{classifier}.classifier.{last}.bias": torch.randn(3),
    }
    if vectors:
        weights[f"{appended}.classifier.0.weight"] = torch.randn(5, 4)
        weights[f"{appended}.classifier.0.bias"] = torch.randn(5)
    return weights


@pytest.mark.parametrize(
    ("head_class", "rank"), [(Head1D, 0), (HeadGlobalPoolingClassifier, 2), (Head3D, 3), (HeadDenseSegmentation, 2)]
)
def test_heads_of_a_fusemedml_checkpoint_give_the_same_outputs(head_class, rank):
    torch.manual_seed(0)
    name = head_class.__name__
    options = {"conv_inputs": [("model.backbone_features", 6)], "layers_description": (8,)}
    is_dense = head_class is HeadDenseSegmentation
    if not is_dense:
        options |= {"append_features": [("data.clinical", 4)], "append_layers_description": (5,)}
    number = "num_outputs" if head_class in (Head1D, Head3D) else "num_classes"
    model = ModelMultiHead(nn.Identity(), [head_class("cls", **options, **{number: 3})], conv_inputs=["data.x"]).eval()
    theirs = fusemedml_names(name, rank)
    checkpoint = {"state_dict": {f"_model.heads.0.{key}": weight for key, weight in theirs.items()}}
    report = load_weights(model, checkpoint)
    assert report.layout == "FuseMedML's models"
    assert report.missing == report.left == ()
    batch = {"data.x": torch.randn(2, 6, *[4] * rank), "data.clinical": torch.randn(2, 4)}
    logits = model(dict(batch))["model.logits.cls"]
    x = batch["data.x"]
    if not is_dense:
        x = x.flatten(2).amax(2) if rank else x
        w, b = (
            next(v for k, v in theirs.items() if k.endswith(f"module.classifier.0.{e}") and v.shape[0] == 5)
            for e in ("weight", "bias")
        )
        x = torch.cat([x, torch.relu(batch["data.clinical"] @ w.T + b)], dim=1)
    first, first_bias, last, last_bias = list(theirs.values())[:4]
    convolve = {0: nn.functional.linear, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[rank]
    x = x.reshape(*x.shape[:2], *[1] * rank) if rank and not is_dense else x
    expected = convolve(torch.relu(convolve(x, first, first_bias)), last, last_bias)
    torch.testing.assert_close(logits, expected if is_dense else expected.flatten(1), rtol=1e-5, atol=1e-5)
