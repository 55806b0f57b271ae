"""The layers of nnU-Net's dynamic U-Nets, named as in its state dicts."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Sizes = tuple[int, ...]
Norm = Literal["instance", "batch"]

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE_POOLINGS: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORMS: dict[tuple[str, int], Callable[[int], nn.Module]] = {
    ("instance", 2): lambda channels: nn.InstanceNorm2d(channels, affine=True),
    ("instance", 3): lambda channels: nn.InstanceNorm3d(channels, affine=True),
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}
SLOPE = 0.01  # of the leaky ReLUs below 0


class ConvNorm(nn.Module):
    """A convolution and a normalization, `conv` and `norm`, and a leaky ReLU unless told otherwise."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: Sizes,
        norm: Norm,
        stride: Sizes | None = None,
        *,
        bias: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        ndim = len(kernel)
        self.conv = CONVOLUTIONS[ndim](
            in_channels, channels, kernel, stride or 1, tuple(size // 2 for size in kernel), bias=bias
        )
        self.norm = NORMS[norm, ndim](channels)
        self.nonlin = nn.LeakyReLU(SLOPE, inplace=True) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, channels, *spatial / stride)`."""
        return cast(Tensor, self.nonlin(self.norm(self.conv(x))))


def conv_blocks(
    number: int, in_channels: int, channels: int, kernel: Sizes, norm: Norm, stride: Sizes | None = None
) -> nn.Sequential:
    """Convolutions in a row, named `convs`, of which the first has the stride."""
    first = ConvNorm(in_channels, channels, kernel, norm, stride)
    others = [ConvNorm(channels, channels, kernel, norm) for _ in range(1, number)]
    return nn.Sequential(OrderedDict(convs=nn.Sequential(first, *others)))


class ResidualConvBlock(nn.Module):
    """`leaky_relu(skip(x) + conv2(conv1(x)))`; the skip is an average pooling and a convolution of kernel 1 if needed.

    Source: He et al., Bag of Tricks for Image Classification with CNNs, CVPR 2019 ("ResNet-D").
    """

    def __init__(self, in_channels: int, channels: int, kernel: Sizes, norm: Norm, stride: Sizes) -> None:
        super().__init__()
        ndim = len(kernel)
        self.conv1 = ConvNorm(in_channels, channels, kernel, norm, stride)
        self.conv2 = ConvNorm(channels, channels, kernel, norm, activation=False)
        skip: list[nn.Module] = []
        if any(size > 1 for size in stride):
            skip.append(AVERAGE_POOLINGS[ndim](stride, stride))
        if in_channels != channels:
            skip.append(ConvNorm(in_channels, channels, (1,) * ndim, norm, bias=False, activation=False))
        self.skip = nn.Sequential(*skip) if skip else nn.Identity()
        self.nonlin2 = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, channels, *spatial / stride)`."""
        residual = self.conv2(self.conv1(x))
        residual += self.skip(x)
        return cast(Tensor, self.nonlin2(residual))


def residual_conv_blocks(
    number: int, in_channels: int, channels: int, kernel: Sizes, norm: Norm, stride: Sizes
) -> nn.Sequential:
    """Residual blocks in a row, named `blocks`, of which the first has the stride."""
    ones = (1,) * len(kernel)
    first = ResidualConvBlock(in_channels, channels, kernel, norm, stride)
    others = [ResidualConvBlock(channels, channels, kernel, norm, ones) for _ in range(1, number)]
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(first, *others)))


class Encoder(nn.Module):
    """The stages of the contracting path; returns the maps of all of them, finest first."""

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        strides: Sequence[Sizes],
        kernels: Sequence[Sizes],
        blocks: Sequence[int],
        residual: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        if residual:
            self.stem = conv_blocks(1, in_channels, features[0], kernels[0], norm)
            in_channels = features[0]
        stages: list[nn.Module] = []
        for channels, stride, kernel, number in zip(features, strides, kernels, blocks, strict=True):
            if residual:
                stages.append(residual_conv_blocks(number, in_channels, channels, kernel, norm, stride))
            else:
                stages.append(nn.Sequential(conv_blocks(number, in_channels, channels, kernel, norm, stride)))
            in_channels = channels
        self.stages = nn.Sequential(*stages)
        self._has_stem = residual

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map of each stage."""
        if self._has_stem:
            x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """The expanding path: transposed convolutions, each joined with the map of the encoder at its resolution."""

    def __init__(
        self,
        features: Sequence[int],
        strides: Sequence[Sizes],
        kernels: Sequence[Sizes],
        blocks: Sequence[int],
        norm: Norm,
    ) -> None:
        super().__init__()
        stages, upsamplings = [], []
        for level, number in zip(range(len(features) - 2, -1, -1), blocks, strict=True):
            below, channels, stride = features[level + 1], features[level], strides[level + 1]
            upsamplings.append(TRANSPOSED[len(stride)](below, channels, stride, stride))
            stages.append(conv_blocks(number, 2 * channels, channels, kernels[level], norm))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(upsamplings)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The map of each level but the lowest, finest first, from the encoder's maps."""
        x = maps[-1]
        results = []
        for upsampling, stage, skip in zip(self.transpconvs, self.stages, reversed(maps[:-1]), strict=True):
            x = stage(torch.cat([upsampling(x), skip], dim=1))
            results.append(x)
        return results[::-1]


def initialise(network: nn.Module) -> None:
    """Convolutions as in He et al. (2015) for leaky ReLUs; residual blocks start as their skip."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualConvBlock):
            nn.init.zeros_(module.conv2.norm.weight)  # type: ignore[arg-type]
