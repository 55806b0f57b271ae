"""Feature maps: their channels and strides, and their reduction to a vector, whatever their spatial rank."""

from typing import Literal, NamedTuple

from torch import Tensor

Pooling = Literal["avg", "max"]


class FeatureInfo(NamedTuple):
    """One level of a backbone's feature maps.

    Attributes:
        channels: the number of channels.
        stride: how many pixels of the input one location stands for, in each axis.
    """

    channels: int
    stride: tuple[int, ...]


def global_pooling(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """The average or the maximum of each channel over all locations.

    Takes `(batch, channels, *spatial)` and returns `(batch, channels)`; a vector is returned as it is.

    Example:
        >>> import torch
        >>> global_pooling(torch.arange(8.0).reshape(1, 2, 2, 2), "max")
        tensor([[3., 7.]])
    """
    # The added axis makes a vector a map of one location, without a branch on the rank, which fx could not trace.
    # amax, not a pooling layer: it takes any rank, and its gradient on CUDA does not depend on the order of additions.
    locations = feature_map[..., None].flatten(start_dim=2)
    return locations.mean(dim=2) if pooling == "avg" else locations.amax(dim=2)
