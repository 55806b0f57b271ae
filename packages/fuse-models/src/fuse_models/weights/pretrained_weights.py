"""Loads weights that others trained into a backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .load_weights import Weights, load_into, read_weights
from .match_to_module import LoadReport


def load_pretrained_weights(
    backbone: nn.Module,
    weights: Weights | None,
    *,
    strict: bool | Sequence[str],
    first_convolution: str,
    left_out: Sequence[str],
) -> LoadReport | None:
    """Load weights, if given, into a backbone by the rules of `load_weights`.

    Args:
        backbone: the module to load into.
        weights: see `load_weights`.
        strict: see `load_weights`.
        first_convolution: the name of the convolution that takes the input; see `adapt_input_channels`.
        left_out: the names of parts that the backbone does not have; these and the names below them are left out.
    """
    if weights is None:
        return None
    owner = f"{type(backbone).__name__}(weights=)"
    first_weight = f"{first_convolution}.weight"
    own = backbone.state_dict()[first_weight]

    def adapt(loaded: dict[str, Tensor]) -> None:
        if first_weight in loaded and loaded[first_weight].ndim == own.ndim:
            loaded[first_weight] = adapt_input_channels(loaded[first_weight], own.shape[1])

    return load_into(
        backbone, read_weights(weights, owner), owner, strict=strict, left_out=tuple(left_out), adapt=adapt
    )


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weights for another number of input channels.

    For one channel they are summed: a gray image then gives the same as when it is repeated over the channels. For
    other numbers they are repeated cyclically (R, G, B, R, …) and scaled by `old / new`, which keeps the size of the
    activations.

    Example:
        >>> rgb = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
        >>> adapt_input_channels(rgb, 1).flatten().tolist(), adapt_input_channels(rgb, 4).flatten().tolist()
        ([6.0], [0.75, 1.5, 2.25, 0.75])
    """
    old = weight.shape[1]
    if old == in_channels:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(in_channels) % old] * (old / in_channels)
