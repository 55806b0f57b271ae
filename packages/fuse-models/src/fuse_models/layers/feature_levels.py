"""The feature maps of a backbone at several resolutions."""

from typing import NamedTuple


class FeatureInfo(NamedTuple):
    """One level of a backbone's feature maps.

    Attributes:
        channels: the number of channels.
        stride: how many pixels of the input one location stands for, in each axis.
    """

    channels: int
    stride: tuple[int, ...]
