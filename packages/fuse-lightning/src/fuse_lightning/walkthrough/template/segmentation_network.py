"""Block 2 of the segmentation task, the network: plain PyTorch, independent of the batch_dict."""

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """A small U-Net: two levels down and two levels up, with skip connections.

    Source: Ronneberger et al. 2015, "U-Net: Convolutional networks for biomedical image segmentation". Here
    it has two levels instead of four, fewer channels, batch normalization, and padding that keeps the size.

    Args:
        in_channels: 1 for gray images, 3 for color images.
        num_classes: number of logits for each pixel.
        channels: channels of the finest level. Each level below has twice as many.

    Shape:
        images [B, in_channels, H, W] to logits [B, num_classes, H, W], with H and W multiples of 4.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 16) -> None:
        super().__init__()
        fine, middle, coarse = channels, 2 * channels, 4 * channels
        self.down_fine = convolutions(in_channels, fine)
        self.down_middle = convolutions(fine, middle)
        self.bottom = convolutions(middle, coarse)
        self.halve = nn.MaxPool2d(2)
        self.double_coarse = nn.ConvTranspose2d(coarse, middle, kernel_size=2, stride=2)
        self.up_middle = convolutions(2 * middle, middle)
        self.double_middle = nn.ConvTranspose2d(middle, fine, kernel_size=2, stride=2)
        self.up_fine = convolutions(2 * fine, fine)
        self.scores = nn.Conv2d(fine, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of each pixel."""
        fine = self.down_fine(images)
        middle = self.down_middle(self.halve(fine))
        coarse = self.bottom(self.halve(middle))
        middle = self.up_middle(torch.cat((self.double_coarse(coarse), middle), dim=1))
        fine = self.up_fine(torch.cat((self.double_middle(middle), fine), dim=1))
        logits: Tensor = self.scores(fine)
        return logits


def convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch normalization and a ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
