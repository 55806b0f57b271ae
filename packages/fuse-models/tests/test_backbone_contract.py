"""What every backbone does: it states its depth, trains, compiles, and keeps its state."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fuse_core import NDict
from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneMultilayerPerceptron,
    BackboneResnet,
    BackboneResnet3D,
    Head1D,
    HeadGlobalPoolingClassifier,
    ModelMultiHead,
)


@dataclass
class Case:
    make: Callable[..., nn.Module]
    input_shape: tuple[int, ...]


CASES = {
    "perceptron": Case(lambda: BackboneMultilayerPerceptron([32, 16], 10, dropout_rate=0.1), (10,)),
    "resnet18": Case(BackboneResnet, (3, 16, 16)),
    "resnet3d": Case(lambda **options: BackboneResnet3D(first_channel_dim=8, **options), (3, 4, 16, 16)),
    "inception": Case(lambda **options: BackboneInceptionResnetV2(12, **options), (3, 75, 75)),
}
with_pooling = pytest.mark.parametrize("case", [CASES[name] for name in CASES if name != "perceptron"])
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def samples(case, number=2):
    return torch.randn(number, *case.input_shape, generator=torch.Generator().manual_seed(0))


@every_case
def test_it_states_the_depth_of_its_features(case):
    backbone = case.make()
    features = backbone(samples(case))
    assert features.shape[:2] == (2, backbone.feature_depth)
    assert features.ndim == len(case.input_shape) + 1


@with_pooling
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_pooling_gives_a_vector(case, pool):
    backbone = case.make(pool=pool).eval()
    mapped = case.make().eval()
    mapped.load_state_dict(backbone.state_dict())
    locations = mapped(samples(case)).flatten(2)
    expected = locations.mean(2) if pool == "avg" else locations.max(2).values
    torch.testing.assert_close(backbone(samples(case)), expected)


@with_pooling
def test_other_numbers_of_channels(case):
    backbone = case.make(in_channels=2)
    assert backbone(samples(case)[:, :2]).shape[1] == backbone.feature_depth


@with_pooling
def test_an_unknown_pooling_is_an_error(case):
    with pytest.raises(ValueError, match=r"Backbone\w+\(pool=\) takes one of None, 'avg', 'max', got 'mean'"):
        case.make(pool="mean")


@with_pooling
@pytest.mark.parametrize("in_channels", [0, -1, 1.0, True])
def test_the_number_of_channels_is_a_positive_integer(case, in_channels):
    with pytest.raises(ValueError, match=r"Backbone\w+\(in_channels=\) takes a positive integer, got"):
        case.make(in_channels=in_channels)


@every_case
def test_it_overfits_a_batch_of_8_and_every_parameter_learns(case):
    torch.manual_seed(0)
    backbone = case.make()
    head_class = Head1D if len(case.input_shape) == 1 else HeadGlobalPoolingClassifier
    head = head_class(head_name="cls", conv_inputs=[("model.backbone_features", backbone.feature_depth)])
    model = ModelMultiHead(backbone, [head], conv_inputs=["data.x"])
    inputs, labels = samples(case, 8), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 if len(case.input_shape) == 1 else 0.002)
    moved = {name: torch.zeros((), dtype=torch.bool) for name, _ in model.named_parameters()}
    for _ in range(60 if len(case.input_shape) == 1 else 8):
        logits = model(NDict({"data.x": inputs}))["model.logits.cls"]
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            moved[name] |= parameter.grad.count_nonzero() > 0
        optimizer.step()
    assert loss < 0.1
    assert [name for name, has_moved in moved.items() if not has_moved] == []


@every_case
def test_a_state_dict_gives_another_backbone_the_same_output(case):
    first, second = case.make(), case.make()
    names = list(first.state_dict())
    first(samples(case))  # moves the running statistics
    assert list(first.state_dict()) == names
    second.load_state_dict(first.state_dict())
    assert second.eval()(samples(case)).equal(first.eval()(samples(case)))


@every_case
def test_it_compiles_in_one_graph(case):
    torch._dynamo.reset()
    backbone = case.make().eval()
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(samples(case)), backbone(samples(case)))


@every_case
def test_it_runs_under_autocast_near_full_precision(case):
    backbone = case.make().eval()
    expected = backbone(samples(case))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        features = backbone(samples(case))
    assert features.dtype == torch.bfloat16
    error = (features.float() - expected).norm() / expected.norm()
    assert error < 0.05


@every_case
def test_no_value_is_read_back_from_the_device(case):
    """On the meta device tensors have no values, so that looking at one is an error."""
    case.make().to("meta")(samples(case).to("meta")).sum().backward()


@every_case
def test_it_leaves_its_input_as_it_is(case):
    inputs = samples(case)
    before = inputs.clone()
    case.make()(inputs)
    assert inputs.equal(before)
