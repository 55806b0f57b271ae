import pytest
import torch

from fuse_models import BackboneInceptionResnetV2

# The channels after each logical unit, as FuseMedML counts them; 384 where the network ends in a block "17".
DEPTHS = {
    0: 320,
    1: 320,
    10: 320,
    11: 1088,
    12: 384,
    14: 384,
    31: 384,
    32: 2080,
    33: 2080,
    41: 2080,
    42: 2080,
    43: 1536,
}


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return BackboneInceptionResnetV2(43).eval()


def on_meta(*arguments, **options):
    with torch.device("meta"):
        return BackboneInceptionResnetV2(*arguments, **options).eval()


@pytest.mark.parametrize("unit", DEPTHS)
def test_the_depth_at_each_kind_of_unit(unit):
    backbone = on_meta(unit)
    assert backbone.feature_depth == DEPTHS[unit]
    assert backbone(torch.zeros(1, 3, 75, 75, device="meta")).shape[1] == DEPTHS[unit]


def test_every_unit_adds_a_layer(full):
    sizes = [sum(weight.numel() for weight in on_meta(unit, 1088).parameters()) for unit in range(44)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == sum(weight.numel() for weight in full.parameters())


def test_the_full_network_has_the_published_number_of_parameters(full):
    assert sum(parameter.numel() for parameter in full.parameters()) == 55_843_464 - 1_537_000
    assert full(torch.zeros(2, 3, 299, 299, device="meta")).shape == (2, 1536, 8, 8)


def test_the_names_are_cadenes(full):
    shapes = {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()}
    expected = {
        "conv2d_1a.conv.weight": (32, 3, 3, 3),
        "conv2d_4a.bn.running_var": (192,),
        "mixed_5b.branch0.conv.weight": (96, 192, 1, 1),
        "mixed_5b.branch3.1.conv.weight": (64, 192, 1, 1),
        "repeat.9.branch2.2.conv.weight": (64, 48, 3, 3),
        "repeat.9.conv2d.bias": (320,),
        "mixed_6a.branch1.2.conv.weight": (384, 256, 3, 3),
        "repeat_1.19.branch1.1.conv.weight": (160, 128, 1, 7),
        "mixed_7a.branch2.2.bn.weight": (320,),
        "repeat_2.8.conv2d.weight": (2080, 448, 1, 1),
        "block8.branch1.2.conv.weight": (256, 224, 3, 1),
        "conv2d_7b.bn.num_batches_tracked": (),
    }
    assert expected.items() <= shapes.items()
    assert len(shapes) == 1306 - 2  # timm's, less the classifier's


def test_where_the_last_block_is_cut():
    x = torch.rand(2, 3, 75, 75)
    weights = BackboneInceptionResnetV2(13).state_dict()
    before = BackboneInceptionResnetV2(11, weights=weights).eval()
    branches = BackboneInceptionResnetV2(12, 384, weights=weights).eval()
    total = BackboneInceptionResnetV2(12, 1088, weights=weights).eval()
    weight, bias = weights["repeat_1.0.conv2d.weight"], weights["repeat_1.0.conv2d.bias"]
    expected = before(x) + 0.1 * torch.nn.functional.conv2d(branches(x), weight, bias)
    torch.testing.assert_close(total(x), expected)
    assert total(x).min() < 0  # before the ReLU


def test_weights_of_the_full_network_load_into_a_cut_one():
    weights = {name: torch.rand(tensor.shape) for name, tensor in on_meta(43).state_dict().items()}
    weights["last_linear.weight"] = torch.rand(1001, 1536)
    backbone = BackboneInceptionResnetV2(14, weights=weights)
    for name, tensor in backbone.state_dict().items():
        assert tensor.equal(weights[name].to(tensor.dtype)), name
    assert "repeat_1.2.conv2d.weight" not in backbone.state_dict()


def test_weights_that_lack_a_unit_are_refused():
    weights = BackboneInceptionResnetV2(1).state_dict()
    with pytest.raises(ValueError, match=r"do not fit: missing: repeat\.1\.branch0\.conv\.weight, .* and \d+ more"):
        BackboneInceptionResnetV2(2, weights=weights)


@pytest.mark.parametrize("unit", [-1, 44, 1.5, None])
def test_the_last_unit_is_in_range(unit):
    with pytest.raises(ValueError, match=rf"logical_units_num=\) takes 0 to 43, got {unit}"):
        BackboneInceptionResnetV2(unit)


def test_the_cut_level_is_one_of_two():
    with pytest.raises(ValueError, match=r"intra_block_cut_level=\) takes 384 or 1088, got 512"):
        BackboneInceptionResnetV2(14, 512)
