"""Block 2 of the classification task, the network: plain PyTorch, independent of the batch_dict."""

from torch import nn


class SmallBackbone(nn.Sequential):
    """Three convolutions and a max pooling, which halves the size of the feature maps.

    Batch normalization and a ReLU follow each convolution.

    Args:
        in_channels: 1 for gray images, 3 for color images.
        channels: channels of the first convolution. The features have four times as many, `feature_depth`.

    Shape:
        images [B, in_channels, H, W] to features [B, feature_depth, H / 2, W / 2].
    """

    def __init__(self, in_channels: int, channels: int = 32) -> None:
        super().__init__(
            *convolution(in_channels, channels),
            *convolution(channels, 2 * channels),
            nn.MaxPool2d(2),
            *convolution(2 * channels, 4 * channels),
        )
        self.feature_depth = 4 * channels


def convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    """A 3 x 3 convolution that keeps the size, batch normalization, and a ReLU."""
    return (
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
