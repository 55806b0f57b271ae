"""State dicts with the names and shapes of fuse-med-ml 0.4.1 load, and give the outputs that they give there.

The weights are sines of their position in that library's state dict, and the inputs cosines, so that both can be made
anywhere. The expected numbers are the first ones of that library's outputs in eval mode.
"""

import hashlib
import math

import pytest
import torch
from torch import nn

from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneResnet,
    BackboneResnet3D,
    Head1D,
    Head3D,
    HeadDenseSegmentation,
    HeadGlobalPoolingClassifier,
    ModelEnsemble,
    ModelMultiHead,
    ModelMultistream,
    load_weights,
)

FEATURES = [("model.backbone_features", 6)]
CLINICAL = [("data.clinical", 3)]


def sines(shapes):
    """Weights by name."""
    weights = {}
    for i, (name, shape) in enumerate(shapes.items()):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros((), dtype=torch.int64)
            continue
        wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + i).reshape(shape)
        wave = 1 + 0.1 * wave if name.endswith("running_var") else (0.1 if len(shape) > 1 else 0.2) * wave
        weights[name] = wave.float()
    return weights


def cosines(*shape):
    return torch.cos(torch.arange(math.prod(shape), dtype=torch.float64) * 0.3).reshape(shape).float()


def layers(name, in_features, *sizes, kernel=0, step=3):
    """The shapes of layers in a list `classifier`, in which an activation, and perhaps a dropout, stands between."""
    shapes = {}
    for i, size in enumerate(sizes):
        shapes[f"{name}.classifier.{step * i}.weight"] = (size, in_features, *[1] * kernel)
        shapes[f"{name}.classifier.{step * i}.bias"] = (size,)
        in_features = size
    return shapes


HEADS = {
    "Head1D": (
        lambda: Head1D(conv_inputs=FEATURES),
        layers("head_module", 6, 256, 2),
        (2, 6),
        [0.718434, -0.645925, 0.705228, -0.645481],
    ),
    "global pooling": (
        lambda: HeadGlobalPoolingClassifier(conv_inputs=FEATURES),
        layers("classifier_head_module", 6, 256, 2, kernel=2),
        (2, 6, 3, 3),
        [0.731533, -0.665679, 0.730663, -0.658681],
    ),
    "global pooling, no dropout": (
        lambda: HeadGlobalPoolingClassifier(conv_inputs=FEATURES, dropout_rate=0.0, layers_description=(5, 4)),
        layers("classifier_head_module", 6, 5, 4, 2, kernel=2, step=2),
        (2, 6, 3, 3),
        [-0.195381, -0.107789, -0.195123, -0.107958],
    ),
    "global pooling, tabular data": (
        lambda: HeadGlobalPoolingClassifier(conv_inputs=FEATURES, append_features=CLINICAL),
        layers("classifier_head_module", 9, 256, 2, kernel=2),
        (2, 6, 3, 3),
        [0.881454, -0.779850, 0.741589, -0.668050],
    ),
    "global pooling, layers for tabular data": (
        lambda: HeadGlobalPoolingClassifier(
            conv_inputs=FEATURES, append_features=CLINICAL, append_layers_description=(7,)
        ),
        layers("tabular_module", 3, 7) | layers("classifier_head_module", 13, 256, 2, kernel=2),
        (2, 6, 3, 3),
        [0.523119, -0.685005, 0.529845, -0.690327],
    ),
    "Head3D": (
        lambda: Head3D(conv_inputs=FEATURES),
        layers("conv_classifier_3d", 6, 256, 2, kernel=3, step=2),
        (2, 6, 2, 3, 3),
        [0.788571, -0.717914, 0.788995, -0.718357],
    ),
    "Head3D, layers for appended features": (
        lambda: Head3D(
            conv_inputs=FEATURES,
            append_features=CLINICAL,
            append_layers_description=(7,),
            fused_dropout_rate=0.1,
        ),
        layers("append_features_module", 3, 7) | layers("conv_classifier_3d", 13, 256, 2, kernel=3),
        (2, 6, 2, 3, 3),
        [0.498522, -0.659781, 0.497293, -0.658286],
    ),
    "dense": (
        lambda: HeadDenseSegmentation(conv_inputs=FEATURES),
        layers("classifier_head_module", 6, 256, 2, kernel=2),
        (2, 6, 3, 3),
        [0.758139, 0.756177, 0.752610, 0.748430],
    ),
}


@pytest.mark.parametrize("prefix", ["", "_model."])
@pytest.mark.parametrize("case", HEADS)
def test_heads_give_the_outputs_that_they_give_there(case, prefix):
    make, shapes, size, expected = HEADS[case]
    head = make().eval()
    weights = {f"{prefix}{name}": weight for name, weight in sines(shapes).items()}
    report = load_weights(head, {"state_dict": weights, "epoch": 3})
    assert report.missing == report.left == ()
    batch = head({"model.backbone_features": cosines(*size), "data.clinical": cosines(2, 3)})
    first = batch["model.logits.head_0"].flatten()[:4]
    torch.testing.assert_close(first, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_a_head_1d_with_appended_features_loads():
    """Its forward fails in that library, so there are no outputs to compare with."""
    head = Head1D(conv_inputs=FEATURES, append_features=CLINICAL, append_layers_description=(7,))
    weights = sines(layers("append_features_module", 3, 7) | layers("head_module", 13, 256, 2))
    assert load_weights(head, weights).missing == ()
    assert head.append_layers[0].weight.equal(weights["append_features_module.classifier.0.weight"])


BACKBONES = {
    "resnet18": (lambda: BackboneResnet(), "6701518022896732", (2, 3, 32, 32), [0.0, 0.039957, 0.385518, 0.0]),
    "resnet50": (
        lambda: BackboneResnet(name="resnet50"),
        "2a0256157e5564e8",
        (2, 3, 32, 32),
        [0.562725, 0.289842, 0.400155, 0.688209],
    ),
    "r3d_18": (
        lambda: BackboneResnet3D(in_channels=1),
        "36f0a736c760c6a0",
        (2, 1, 4, 16, 16),
        [0.06203, 0.0, 0.0, 0.0],
    ),
    "resnet3d": (
        lambda: BackboneResnet3D(in_channels=2, layers=[1, 1, 1, 1], first_channel_dim=8),
        "a8e62455a98a3b04",
        (2, 2, 4, 16, 16),
        [0.0, 0.0, 0.207466, 0.334184],
    ),
    "inception_resnet_v2": (
        lambda: BackboneInceptionResnetV2(43),
        "24d55c231792f26d",
        (1, 3, 96, 96),
        [0.0, 0.0, 0.8026, 0.0],
    ),
    "inception_resnet_v2, cut": (
        lambda: BackboneInceptionResnetV2(),
        "73044f4a406c1125",
        (1, 3, 96, 96),
        [0.446969, 0.453993, 0.453596, 0.453975],
    ),
}
UNUSED = {"repeat_1.2.conv2d.weight": (1088, 384, 1, 1), "repeat_1.2.conv2d.bias": (1088,)}
"""The convolution behind the branches with which the default network ends: registered there, but never used."""


@pytest.mark.parametrize("case", BACKBONES)
def test_backbones_have_the_same_names_and_shapes_and_give_the_same_outputs(case):
    make, digest, size, expected = BACKBONES[case]
    backbone = make().eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    if case.endswith("cut"):
        shapes |= UNUSED
    kinds = {name: "int64" if name.endswith("num_batches_tracked") else "float32" for name in shapes}
    lines = "\n".join(f"{name} {shape} torch.{kinds[name]}" for name, shape in shapes.items())
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest  # of all their names, shapes and types in order
    report = load_weights(backbone, {f"_model.backbone.{name}": weight for name, weight in sines(shapes).items()})
    assert report.missing == ()
    assert set(report.left) == {f"_model.backbone.{name}" for name in UNUSED if case.endswith("cut")}
    with torch.inference_mode():
        first = backbone(cosines(*size)).flatten()[:4]
    torch.testing.assert_close(first, torch.tensor(expected), rtol=1e-6, atol=2e-6)


POOLED = layers("heads.0.classifier_head_module", 6, 256, 2, kernel=2)
STREAMS = {
    f"{streams}.{i}.{name}": shape
    for streams in ("backbone_streams", "backbones")
    for i in range(2)
    for name, shape in {"weight": (3, 1, 1, 1), "bias": (3,)}.items()
}
"""That library registers each stream under two names; the weights are those of the second."""


@pytest.mark.parametrize(
    ("make", "shapes", "size", "expected"),
    [
        (
            lambda head: ModelMultiHead(nn.Conv2d(1, 6, 1), [head], conv_inputs=[("data.x", 1)]),
            {"backbone.weight": (6, 1, 1, 1), "backbone.bias": (6,), **POOLED},
            (2, 1, 3, 3),
            [0.439279, -0.594435, 0.438716, -0.594167],
        ),
        (
            lambda head: ModelMultistream(("data.x", 2), [nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)], [head]),
            STREAMS | POOLED,
            (2, 2, 3, 3),
            [0.510308, -0.725580, 0.503378, -0.718569],
        ),
    ],
    ids=["multi-head", "multistream"],
)
def test_whole_models_give_the_outputs_that_they_give_there(make, shapes, size, expected):
    model = make(HeadGlobalPoolingClassifier(conv_inputs=FEATURES)).eval()
    weights = sines(shapes)
    weights |= {name.replace("backbones", "backbone_streams"): weights[name] for name in weights}
    report = load_weights(model, {f"_model.{name}": weight for name, weight in weights.items()})
    assert report.missing == report.left == ()
    first = model({"data.x": cosines(*size)})["model.logits.head_0"].flatten()[:4]
    torch.testing.assert_close(first, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_streams_that_share_weights_load_once():
    shared, other = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    model = ModelMultistream(("data.x", 3), [shared, shared, other], [])
    given = {0: torch.randn(3, 1, 1, 1), 2: torch.randn(3, 1, 1, 1)}
    given[1] = given[0].clone()
    streams = {
        f"{name}.{i}.{rest}": weight
        for name in ("backbone_streams", "backbones")
        for i in range(3)
        for rest, weight in {"weight": given[i], "bias": torch.zeros(3)}.items()
    }
    assert load_weights(model, {f"_model.{name}": weight for name, weight in streams.items()}).missing == ()
    assert shared.weight.equal(given[0])
    assert other.weight.equal(given[2])


HEAD = "heads.0.classifier_head_module.classifier"


@pytest.fixture
def model():
    return ModelMultiHead(nn.Conv2d(1, 6, 1), [HeadGlobalPoolingClassifier("a", FEATURES)], conv_inputs=["data.x"])


@pytest.fixture
def state():
    return sines({"backbone.weight": (6, 1, 1, 1), "backbone.bias": (6,), **POOLED})


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("prefix", ["", "models.0."])
def test_load_state_dict_takes_the_names_and_leaves_the_given_dict_as_it_is(model, state, assign, prefix):
    module = ModelEnsemble([model], ["model.output.a"]) if prefix else model
    state = {f"{prefix}{name}": weight for name, weight in state.items()}
    names = list(state)
    module.load_state_dict(state, assign=assign)
    assert list(state) == names
    assert model.heads[0].classifier[0].weight.equal(state[f"{prefix}{HEAD}.0.weight"].flatten(1))
    assert all(isinstance(weight, nn.Parameter) and weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state | {"heads.0.classifier.9.bias": torch.zeros(2)},
            'Unexpected.*"heads.0.classifier.9.bias"',
        ),
        (lambda state: state | {f"{HEAD}.9.bias": torch.zeros(2)}, f'Unexpected.*"{HEAD}.9.bias"'),
        (lambda state: state | {"other": torch.zeros(2)}, 'Unexpected.*"other"'),
        (
            lambda state: {k: v for k, v in state.items() if k != f"{HEAD}.0.bias"},
            'Missing.*"heads.0.classifier.0.bias"',
        ),
        (lambda state: state | {f"{HEAD}.0.bias": torch.zeros(3)}, "size mismatch for heads.0.classifier.0.bias"),
    ],
    ids=["own unexpected", "unexpected", "of no layout", "missing", "shape"],
)
def test_load_state_dict_is_as_strict_as_torchs(model, state, change, message):
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(change(state))


def test_parts_of_the_model_itself_keep_their_names():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.head_module = nn.ModuleDict({"classifier": nn.Linear(2, 2)})

    model = ModelMultiHead(Backbone(), [HeadGlobalPoolingClassifier("a", FEATURES)], conv_inputs=["data.x"])
    state = sines({"backbone.head_module.classifier.weight": (2, 2), "backbone.head_module.classifier.bias": (2,)})
    state |= sines(POOLED)
    model.load_state_dict(state)
    assert model.backbone.head_module["classifier"].weight.equal(state["backbone.head_module.classifier.weight"])
    assert load_weights(model, state).missing == ()
