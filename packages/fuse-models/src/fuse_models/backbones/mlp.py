"""A multilayer perceptron."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_positive, check_rate
from ..layers.perceptron_layers import perceptron_layers


class BackboneMultilayerPerceptron(nn.Module):
    """Fully connected layers, each followed by its activation and dropout, for vectors.

    Args:
        layers: the size of each layer.
        mlp_input_size: the size of the input vectors.
        activation_layer: a class or function that makes an activation, such as `torch.nn.ReLU`, called once a layer;
            None for no activation.
        dropout_rate: of the dropout after each activation.

    Attributes:
        feature_depth: the size of the vectors returned: that of the last layer.

    Raises:
        TypeError: `activation_layer` is a module, which all layers would share, or cannot be called.
        ValueError: a size or rate is out of range.

    Example:
        >>> import torch
        >>> backbone = BackboneMultilayerPerceptron(layers=[32, 16], mlp_input_size=10, activation_layer=torch.nn.GELU)
        >>> backbone(torch.zeros(5, 10)).shape, backbone.feature_depth
        (torch.Size([5, 16]), 16)
    """

    def __init__(
        self,
        layers: Sequence[int] = (64, 192, 320, 320, 1088, 384),
        mlp_input_size: int = 103,
        activation_layer: Callable[[], nn.Module] | None = nn.ReLU,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        layers = check_all_positive(layers, "BackboneMultilayerPerceptron(layers=)")
        if not layers:
            raise ValueError("BackboneMultilayerPerceptron(layers=) takes at least one size, got none.")
        mlp_input_size = check_positive(mlp_input_size, "BackboneMultilayerPerceptron(mlp_input_size=)")
        dropout_rate = check_rate(dropout_rate, "BackboneMultilayerPerceptron(dropout_rate=)")
        if isinstance(activation_layer, nn.Module) or not (activation_layer is None or callable(activation_layer)):
            raise TypeError(
                f"BackboneMultilayerPerceptron(activation_layer=) takes a class or a function that makes an "
                f"activation for each layer, got {activation_layer!r}. Use torch.nn.ReLU, or "
                f"lambda: torch.nn.LeakyReLU(0.2)."
            )
        self.mlp = perceptron_layers(
            mlp_input_size, layers, dropout_rate=dropout_rate, activation_layer=activation_layer
        )
        self.feature_depth = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, mlp_input_size)` to `(batch, feature_depth)`."""
        result: Tensor = self.mlp(x)
        return result
