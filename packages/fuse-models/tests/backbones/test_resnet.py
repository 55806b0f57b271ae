import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_models import BackboneResnet, BackboneResnet3D

# The published numbers of parameters with the classifier, less those of the classifier.
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
ENTRIES = {"resnet18": 120, "resnet34": 216, "resnet50": 318, "resnet101": 624, "resnet152": 930}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_depth_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        backbone = BackboneResnet(name=name)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[name]
    assert len(backbone.state_dict()) == ENTRIES[name]


def test_r3d_18_has_the_published_number_of_parameters():
    with torch.device("meta"):
        backbone = BackboneResnet3D()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 33_371_472 - 205_200
    assert len(backbone.state_dict()) == 120


def test_the_names_and_shapes_of_torchvisions_basic_resnet():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in BackboneResnet().state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_mean"] == (64,)
    assert [name for name in shapes if name.startswith("layer2.0.") and name.endswith("weight")] == [
        "layer2.0.conv1.weight",
        "layer2.0.bn1.weight",
        "layer2.0.conv2.weight",
        "layer2.0.bn2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.weight",
    ]
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert "layer1.0.downsample.0.weight" not in shapes


def test_the_names_and_shapes_of_torchvisions_bottlenecks():
    with torch.device("meta"):
        backbone = BackboneResnet(name="resnet50")
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    assert [shapes[f"layer2.0.conv{i}.weight"] for i in (1, 2, 3)] == [
        (128, 256, 1, 1),
        (128, 128, 3, 3),
        (512, 128, 1, 1),
    ]
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert backbone.layer2[0].conv2.stride == (2, 2)  # "v1.5"
    assert backbone.feature_depth == 2048


def test_the_names_and_shapes_of_torchvisions_video_resnet():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in BackboneResnet3D().state_dict().items()}
    assert shapes["stem.0.weight"] == (64, 3, 3, 7, 7)
    assert shapes["stem.1.weight"] == (64,)
    assert [name for name in shapes if name.startswith("layer2.0.") and name.endswith("weight")] == [
        "layer2.0.conv1.0.weight",
        "layer2.0.conv1.1.weight",
        "layer2.0.conv2.0.weight",
        "layer2.0.conv2.1.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.weight",
    ]
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1, 1)


@given(height=st.integers(1, 50), width=st.integers(1, 50))
def test_images_shrink_by_32_rounded_up(height, width):
    backbone = BackboneResnet(in_channels=1).to("meta").eval()
    features = backbone(torch.zeros(1, 1, height, width, device="meta"))
    assert features.shape == (1, 512, -(-height // 32), -(-width // 32))


@given(
    size=st.tuples(*[st.integers(1, 24)] * 3),
    layers=st.lists(st.integers(1, 2), min_size=1, max_size=4),
    first_stride=st.integers(1, 2),
    stem_stride=st.tuples(*[st.integers(1, 2)] * 3),
    kernel=st.sampled_from([1, 3, (3, 7, 7)]),
)
def test_volumes_shrink_by_the_strides_rounded_up(size, layers, first_stride, stem_stride, kernel):
    backbone = BackboneResnet3D(
        in_channels=1,
        layers=layers,
        first_channel_dim=2,
        first_stride=first_stride,
        stem_kernel_size=kernel,
        stem_stride=stem_stride,
    ).eval()
    features = backbone(torch.zeros(1, 1, *size))
    total = [stride * first_stride * 2 ** (len(layers) - 1) for stride in stem_stride]
    expected = [-(-length // stride) for length, stride in zip(size, total, strict=True)]
    assert features.shape == (1, backbone.feature_depth, *expected)
    assert backbone.feature_depth == 2 * 2 ** (len(layers) - 1)


def test_one_number_is_the_stems_size_and_stride_in_all_axes():
    backbone = BackboneResnet3D(first_channel_dim=2, stem_kernel_size=5, stem_stride=2)
    assert (backbone.stem[0].kernel_size, backbone.stem[0].stride) == ((5, 5, 5), (2, 2, 2))


@pytest.mark.parametrize(("given", "pool"), [(True, "avg"), (False, None)])
def test_fusemedmls_boolean_pooling(given, pool):
    assert BackboneResnet3D(first_channel_dim=2, pool=given).pool == pool


def test_an_unknown_depth_names_those_there_are():
    with pytest.raises(ValueError, match=r"BackboneResnet\(name=\) takes one of 'resnet18', .*, got 'resnet19'"):
        BackboneResnet(name="resnet19")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, r"layers=\) takes the number of blocks of at least one stage, got none"),
        ({"layers": [2, 0]}, r"layers=\) takes a sequence of positive integers, got \[2, 0\]"),
        ({"first_channel_dim": 0}, r"first_channel_dim=\) takes a positive integer, got 0"),
        ({"first_stride": 0}, r"first_stride=\) takes a positive integer, got 0"),
        ({"stem_kernel_size": (3, 4, 4)}, r"stem_kernel_size=\) takes odd sizes, got \(3, 4, 4\)"),
        ({"stem_kernel_size": (3, 3)}, r"stem_kernel_size=\) takes 3 positive integers, got \(3, 3\)"),
        ({"stem_stride": (1, 0, 2)}, r"stem_stride=\) takes 3 positive integers, got \(1, 0, 2\)"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=rf"BackboneResnet3D\({message}"):
        BackboneResnet3D(**options)
