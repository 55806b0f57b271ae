import pytest
import torch
from small_network import make_closure
from torch import nn
from torch.nn import functional as F

from fuse_optim import SAM, norm_layers


class ChannelsLastLayerNorm(nn.LayerNorm):
    pass


class InstanceNorm3d(nn.Module):
    """As libraries of models write their own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4, affine=True), nn.SyncBatchNorm(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_the_parameters_of_normalization_layers_are_found(layer):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer), nn.Linear(4, 2))
    norms, others = norm_layers(model)
    assert norms == list(layer.parameters())
    assert others == [*model[0].parameters(), *model[2].parameters()]


@pytest.mark.parametrize("layer", [ChannelsLastLayerNorm(4), InstanceNorm3d()], ids=lambda layer: type(layer).__name__)
def test_classes_of_ones_own_are_found_by_class_or_name(layer):
    assert norm_layers(nn.Sequential(layer, nn.Linear(4, 4)))[0] == list(layer.parameters())


def test_a_model_without_normalization_layers_is_refused():
    for model in (nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))):
        with pytest.raises(ValueError, match=rf"no parameters of normalization layers in {type(model).__name__}\."):
            norm_layers(model)


def test_a_parameter_that_two_layers_share_is_listed_once():
    first, second = nn.LayerNorm(4), nn.LayerNorm(4)
    second.weight = first.weight
    norms, others = norm_layers(nn.Sequential(first, second))
    assert norms == [first.weight, first.bias, second.bias]
    assert others == []


def test_sam_on_moves_the_normalization_layers_by_the_radius():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    inputs, targets = torch.randn(64, 5), torch.randint(3, (64,))
    norms, others = norm_layers(model)
    optimizer = SAM([{"params": norms}, {"params": others, "rho": 0.0}], torch.optim.SGD, lr=0.1, rho=0.5)
    seen = []

    def loss_function():
        seen.append([torch.cat([p.detach().flatten() for p in params]) for params in (norms, others)])
        return F.cross_entropy(model(inputs), targets)

    optimizer.step(make_closure(optimizer, loss_function))
    torch.testing.assert_close((seen[1][0] - seen[0][0]).norm(), torch.tensor(0.5))
    assert torch.equal(seen[1][1], seen[0][1])
