"""A sequence of fully connected layers: the body of the perceptron backbone and of every head."""

from collections.abc import Callable, Sequence

from torch import nn

Pointwise = Callable[[int, int], nn.Module]


def perceptron_layers(
    in_features: int,
    layers_description: Sequence[int],
    num_outputs: int | None = None,
    *,
    dropout_rate: float = 0.0,
    activation_layer: Callable[[], nn.Module] | None = nn.ReLU,
    pointwise: Pointwise = nn.Linear,
) -> nn.Sequential:
    """Hidden layers, each with its activation and dropout, and an output layer.

    Args:
        in_features: the size of the input.
        layers_description: the size of each hidden layer.
        num_outputs: the size of the output layer; None for no such layer.
        dropout_rate: 0 for no dropout.
        activation_layer: makes the activations; None for none.
        pointwise: makes a layer from its sizes: `nn.Linear` for vectors, a convolution of kernel 1 for maps.

    Example:
        >>> perceptron_layers(4, [8], 2, dropout_rate=0.1)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Dropout(p=0.1, inplace=False)
          (3): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for size in layers_description:
        layers.append(pointwise(in_features, size))
        if activation_layer is not None:
            layers.append(activation_layer())
        if dropout_rate > 0:
            layers.append(nn.Dropout(dropout_rate))
        in_features = size
    if num_outputs is not None:
        layers.append(pointwise(in_features, num_outputs))
    return nn.Sequential(*layers)
