"""Weights from elsewhere, put into backbones."""

import pytest
import safetensors.torch
import torch
from torch import nn

from fuse_models import BackboneInceptionResnetV2, BackboneResnet, BackboneResnet3D, load_weights

CASES = {
    "resnet": (BackboneResnet, "conv1.weight", (1, 3, 32, 32)),
    "resnet3d": (
        lambda **options: BackboneResnet3D(first_channel_dim=4, **options),
        "stem.0.weight",
        (1, 3, 8, 16, 16),
    ),
    "inception": (lambda **options: BackboneInceptionResnetV2(1, **options), "conv2d_1a.conv.weight", (1, 3, 75, 75)),
}
every_case = pytest.mark.parametrize(("make", "first", "shape"), CASES.values(), ids=CASES)


def trained(make):
    """A backbone with weights and statistics of its own."""
    backbone = make()
    for name, tensor in backbone.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bn.bias")):
            tensor.uniform_(0.5, 1.5)
    return backbone.eval()


@every_case
def test_a_state_dict_loads(make, first, shape):
    source = trained(make)
    x = torch.rand(shape)
    assert make(weights=source.state_dict()).eval()(x).equal(source(x))


@every_case
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_a_file_loads(make, first, shape, tmp_path, suffix, as_path):
    source, path = trained(make), tmp_path / f"weights{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    x = torch.rand(shape)
    assert make(weights=as_path(path)).eval()(x).equal(source(x))


class Enumerated:
    """Offers what a member of a torchvision weights enum offers."""

    def __init__(self, state_dict):
        self.state_dict = state_dict

    def get_state_dict(self, *, progress, check_hash):
        assert check_hash
        return self.state_dict


@every_case
def test_a_weights_enum_loads(make, first, shape):
    source = trained(make)
    x = torch.rand(shape)
    assert make(weights=Enumerated(source.state_dict())).eval()(x).equal(source(x))


@every_case
@pytest.mark.parametrize("classifier", ["fc.weight", "fc.bias"])
def test_the_classifier_is_left_out(make, first, shape, classifier):
    weights = trained(make).state_dict() | {classifier: torch.rand(1000)}
    assert classifier not in make(weights=weights).state_dict()


@pytest.mark.parametrize("classifier", ["last_linear", "classif"])
def test_inceptions_classifier_has_several_names(classifier):
    make = CASES["inception"][0]
    make(weights=trained(make).state_dict() | {f"{classifier}.weight": torch.rand(1001, 1536)})


@every_case
def test_the_callers_state_dict_is_not_changed(make, first, shape):
    weights = trained(make).state_dict() | {"fc.weight": torch.rand(1000)}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    with torch.no_grad():
        for parameter in make(in_channels=1, weights=weights).parameters():
            parameter.add_(1)
    assert list(weights) == list(before)
    assert all(tensor.equal(before[name]) for name, tensor in weights.items())


@every_case
def test_for_one_channel_the_first_convolution_is_summed(make, first, shape):
    """A gray image gives what it gives repeated over the three channels."""
    source = trained(make)
    grey = torch.rand(shape[0], 1, *shape[2:])
    adapted = make(in_channels=1, weights=source.state_dict()).eval()
    torch.testing.assert_close(adapted(grey), source(grey.expand(shape)), rtol=1e-4, atol=1e-4)


@every_case
@pytest.mark.parametrize("in_channels", [2, 4, 6, 7])
def test_for_other_channels_it_is_repeated_cyclically_and_scaled(make, first, shape, in_channels):
    weights = trained(make).state_dict()
    adapted = make(in_channels=in_channels, weights=weights).state_dict()[first]
    for channel in range(in_channels):
        torch.testing.assert_close(adapted[:, channel], weights[first][:, channel % 3] * 3 / in_channels)


@every_case
def test_grey_weights_are_repeated_for_several_channels(make, first, shape):
    weights = make(in_channels=1).state_dict()
    adapted = make(in_channels=2, weights=weights).state_dict()[first]
    torch.testing.assert_close(adapted, torch.cat([weights[first]] * 2, dim=1) / 2)


@every_case
def test_doubled_channels_give_what_they_give_once(make, first, shape):
    source = trained(make)
    x = torch.rand(shape)
    adapted = make(in_channels=6, weights=source.state_dict()).eval()
    torch.testing.assert_close(adapted(torch.cat([x, x], dim=1)), source(x), rtol=1e-4, atol=1e-4)


@every_case
def test_weights_of_the_same_other_number_of_channels_stay_as_they_are(make, first, shape):
    weights = make(in_channels=4).state_dict()
    assert make(in_channels=4, weights=weights).state_dict()[first].equal(weights[first])


@every_case
def test_counts_of_batches_may_be_missing_as_in_old_files(make, first, shape):
    weights = {name: tensor for name, tensor in trained(make).state_dict().items() if "num_batches" not in name}
    assert len(make(weights=weights).state_dict()) > len(weights)


@every_case
def test_everything_else_must_fit(make, first, shape):
    weights = trained(make).state_dict()
    weights["layer9.weight"] = weights.pop(first)
    with pytest.raises(ValueError, match=rf"do not fit: missing: {first}; unknown: layer9\.weight\. Check the depth"):
        make(weights=weights)


@every_case
def test_shapes_must_fit(make, first, shape):
    weights = trained(make).state_dict()
    name = next(reversed([name for name in weights if name.endswith("weight")]))
    weights[name] = torch.zeros(7)
    with pytest.raises(ValueError, match=rf"do not fit: of another shape: {name} \(7,\) for \(\d+,"):
        make(weights=weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype):
    weights = {name: tensor.to(dtype) for name, tensor in nn.Linear(3, 2).state_dict().items()}
    message = rf"do not fit: of another kind: weight {dtype} for torch\.float32, bias {dtype} for torch\.float32\."
    with pytest.raises(ValueError, match=message):
        load_weights(nn.Linear(3, 2), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_load(dtype):
    module = nn.BatchNorm1d(3)
    load_weights(
        module, {name: torch.full_like(tensor, 2, dtype=dtype) for name, tensor in module.state_dict().items()}
    )
    assert module.weight.dtype == torch.float32
    assert module.num_batches_tracked.equal(torch.tensor(2))
    assert module.weight.eq(2).all()


# ----------------------------------------------------------------------------------------------- where they come from


@every_case
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.backbone.", "_model.backbone.", "model._orig_mod."])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "network_weights"])
def test_weights_of_a_larger_checkpoint_are_found(make, first, shape, tmp_path, prefix, container):
    source = trained(make)
    weights = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    if "backbone" in prefix:
        weights |= {"model.heads.0.classifier.0.weight": torch.rand(2, 4), "losses.cls.class_weights": torch.rand(2)}
    torch.save({container: weights, "epoch": 1} if container else weights, tmp_path / "trained.ckpt")
    backbone = make(weights=tmp_path / "trained.ckpt").eval()
    x = torch.rand(shape)
    assert backbone(x).equal(source(x))
    report = backbone.load_report
    assert report.prefix == prefix.replace("_orig_mod.", "")
    assert report.missing == ()
    assert len(report.left) == (2 if "backbone" in prefix else 0)


def test_two_parts_that_fit_are_ambiguous():
    state = BackboneResnet().state_dict()
    both = {f"model.backbone_streams.{i}.{name}": tensor for i in range(2) for name, tensor in state.items()}
    message = (
        r"several parts fit: 'model\.backbone_streams\.0\.', 'model\.backbone_streams\.1\.'\. Give the weights of one"
    )
    with pytest.raises(ValueError, match=message):
        BackboneResnet(weights=both)


@every_case
def test_names_that_need_not_fit_are_told(make, first, shape):
    layer = first.removesuffix(".weight")
    weights = trained(make).state_dict()
    weights[first] = weights[first][..., :1]  # of another kernel size
    with pytest.raises(ValueError, match=rf"of another shape: {first}"):
        make(weights=weights)
    backbone = make(weights=weights, weights_strict=[layer])
    assert [name for name in backbone.load_report.missing if "num_batches" not in name] == [first]
    assert backbone.load_report.left == (first,)
    assert backbone.state_dict()[first].shape != weights[first].shape
    del weights[first]
    assert make(weights=weights, weights_strict=[layer]).load_report.left == ()
    with pytest.raises(ValueError, match=r"missing: "):
        make(weights={first: torch.zeros(1)}, weights_strict=[layer])


def test_the_report_can_be_read():
    trained_head = torch.nn.Linear(4, 2)
    report = load_weights(torch.nn.Linear(4, 2, bias=False), {"a.weight": trained_head.weight, "b": trained_head.bias})
    assert str(report) == "1 of 1 weights loaded (names as given, prefix 'a.'); left: b"


def test_weights_of_modules_load_without_a_rule():
    source, target = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    assert load_weights(target, source.state_dict()).loaded == ("weight", "bias")
    assert target.weight.equal(source.weight)
    other = torch.nn.Linear(4, 3)
    assert load_weights(other, source.state_dict(), strict=False).loaded == ()


def test_weights_of_another_depth_are_refused_with_the_first_few_names():
    with torch.device("meta"):
        weights = BackboneResnet(name="resnet34").state_dict()
    with pytest.raises(ValueError, match=r"unknown: layer1\.2\.conv1\.weight, .* and 92 more"):
        BackboneResnet(name="resnet18", weights=weights)


@pytest.mark.parametrize("weights", [1, True, Enumerated, object()])
def test_anything_else_is_refused(weights):
    with pytest.raises(TypeError, match=r"BackboneResnet\(weights=\) takes a state dict, the path of one, or"):
        BackboneResnet(weights=weights)


def test_a_module_is_refused_without_its_whole_description():
    with pytest.raises(TypeError, match=r"takes a state dict, got a Linear\. Give its state_dict\(\)\.$"):
        BackboneResnet(weights=nn.Linear(3, 2))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"No weights at 'IMAGENET1K_V1'"):
        BackboneResnet(weights="IMAGENET1K_V1")


def test_weights_of_half_precision_load_in_the_backbones_own():
    make, first, _ = CASES["resnet3d"]
    weights = {name: t.half() if t.is_floating_point() else t for name, t in trained(make).state_dict().items()}
    loaded = make(weights=weights).state_dict()[first]
    assert loaded.dtype == torch.float32
    assert loaded.equal(weights[first].float())


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "_model.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "wrap", [lambda module: module, torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")]
)
def test_prefixes_are_found_in_any_order_and_wrapped_modules_load(prefix, wrap):
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    source[1].running_mean.fill_(3.0)
    target = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    weights = {f"{prefix}{name}": weight for name, weight in source.state_dict().items()}
    report = load_weights(wrap(target), {"state_dict": weights, "epoch": 3})
    assert report.missing == report.left == ()
    loaded = target.cpu().state_dict()  # DataParallel moves it to a GPU
    assert all(loaded[name].equal(weight) for name, weight in source.state_dict().items())


@pytest.mark.parametrize(
    ("strict", "message"),
    [
        (["layr4"], r"BackboneResnet\(weights=\): 'layr4' need not fit, but neither .* Did you mean 'layer4'\?"),
        ("layer4", r"are a sequence, got 'layer4'\. Use \['layer4'\]"),
    ],
)
def test_names_that_need_not_fit_are_known(strict, message):
    with pytest.raises(ValueError, match=message):
        BackboneResnet(weights=BackboneResnet().state_dict(), weights_strict=strict)
