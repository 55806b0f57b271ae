import pytest
import torch
from torch import nn

from fuse_models import BackboneMultilayerPerceptron


def test_its_layers():
    backbone = BackboneMultilayerPerceptron([8, 4], mlp_input_size=5, dropout_rate=0.2)
    kinds = [type(layer) for layer in backbone.mlp]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert [tuple(weight.shape) for weight in backbone.parameters()] == [(8, 5), (8,), (4, 8), (4,)]


def test_its_state_dict_has_fusemedmls_names():
    assert list(BackboneMultilayerPerceptron([8, 4]).state_dict()) == [
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.2.weight",
        "mlp.2.bias",
    ]


def test_each_activation_is_an_instance_of_its_own():
    backbone = BackboneMultilayerPerceptron([8, 4, 2], mlp_input_size=5, activation_layer=nn.PReLU)
    activations = [layer for layer in backbone.mlp if isinstance(layer, nn.PReLU)]
    assert len({id(activation) for activation in activations}) == 3
    assert len(list(backbone.parameters())) == 9


def test_activations_come_from_any_factory_or_are_left_out():
    leaky = BackboneMultilayerPerceptron([4], mlp_input_size=4, activation_layer=lambda: nn.LeakyReLU(0.2))
    linear = BackboneMultilayerPerceptron([4], mlp_input_size=4, activation_layer=None)
    linear.load_state_dict(leaky.state_dict())
    x = torch.randn(3, 4)
    torch.testing.assert_close(leaky(x), nn.functional.leaky_relu(linear(x), 0.2))


@pytest.mark.parametrize("activation", [nn.ReLU(), "relu"])
def test_an_activation_that_all_layers_would_share_or_that_makes_none_is_refused(activation):
    message = r"takes a class or a function .* for each layer, got (ReLU\(\)|'relu')\. Use torch\.nn\.ReLU"
    with pytest.raises(TypeError, match=message):
        BackboneMultilayerPerceptron(activation_layer=activation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, r"layers=\) takes at least one size"),
        ({"layers": [8, 0]}, r"layers=\) takes a sequence of positive integers, got \[8, 0\]"),
        ({"mlp_input_size": 0}, r"mlp_input_size=\) takes a positive integer, got 0"),
        ({"dropout_rate": 1.0}, r"dropout_rate=\) takes a number from 0 up to, not including, 1, got 1\.0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=rf"BackboneMultilayerPerceptron\({message}"):
        BackboneMultilayerPerceptron(**options)
