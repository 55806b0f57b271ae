"""The layers of Inception-ResNet-v2, named as in the weights of Cadene and timm."""

from typing import cast

import torch
from torch import Tensor, nn


class ConvNormRelu(nn.Module):
    """A convolution, batch normalization and ReLU: `conv`, `bn`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, height, width)` to `(batch, out_channels, …)`."""
        return cast(Tensor, self.relu(self.bn(self.conv(x))))


class Branches(nn.Module):
    """Branches over the same input, concatenated on the channel axis, named `branch0`, `branch1` and so on."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self._names = tuple(f"branch{i}" for i in range(len(branches)))
        for name, branch in zip(self._names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """The branches' outputs side by side."""
        return torch.cat([self._modules[name](x) for name in self._names], dim=1)  # type: ignore[misc]


class ResidualBranches(Branches):
    """`relu(x + scale * conv2d(branches(x)))`.

    Together the branches have `mixed_channels` output channels. A scale well below 1 keeps deep networks of such blocks
    stable.
    """

    def __init__(
        self, *branches: nn.Module, mixed_channels: int, channels: int, scale: float, activation: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(mixed_channels, channels, kernel_size=1)
        self.relu = nn.ReLU(inplace=True) if activation else nn.Identity()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, height, width)`, as the input."""
        return cast(Tensor, self.relu(torch.add(x, self.conv2d(super().forward(x)), alpha=self.scale)))


Kernel = int | tuple[int, int]


def branch(in_channels: int, *layers: tuple[int, Kernel] | tuple[int, Kernel, int]) -> nn.Module:
    """Convolutions in a row, each given as (channels, kernel) or (channels, kernel, stride).

    Those of stride 1 keep the size of the map, those of stride 2 have no padding.
    """
    modules = []
    for channels, kernel, *stride in layers:
        padding = 0 if stride else kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
        modules.append(ConvNormRelu(in_channels, channels, kernel, stride=stride[0] if stride else 1, padding=padding))
        in_channels = channels
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def mixed_5b() -> Branches:
    """192 to 320 channels."""
    return Branches(
        branch(192, (96, 1)),
        branch(192, (48, 1), (64, 5)),
        branch(192, (64, 1), (96, 3), (96, 3)),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), branch(192, (64, 1))),
    )


def block35() -> ResidualBranches:
    """320 channels, named for the 35 x 35 locations of its original input."""
    branches = branch(320, (32, 1)), branch(320, (32, 1), (32, 3)), branch(320, (32, 1), (48, 3), (64, 3))
    return ResidualBranches(*branches, mixed_channels=128, channels=320, scale=0.17)


def mixed_6a() -> Branches:
    """320 to 1088 channels at half the resolution."""
    return Branches(branch(320, (384, 3, 2)), branch(320, (256, 1), (256, 3), (384, 3, 2)), nn.MaxPool2d(3, stride=2))


def block17_branches() -> tuple[nn.Module, nn.Module]:
    """1088 to 384 channels: the last layers of a network that is cut to 384 channels in its last such block."""
    return branch(1088, (192, 1)), branch(1088, (128, 1), (160, (1, 7)), (192, (7, 1)))


def block17(*, activation: bool = True) -> ResidualBranches:
    """1088 channels."""
    return ResidualBranches(*block17_branches(), mixed_channels=384, channels=1088, scale=0.1, activation=activation)


def mixed_7a() -> Branches:
    """1088 to 2080 channels at half the resolution."""
    return Branches(
        branch(1088, (256, 1), (384, 3, 2)),
        branch(1088, (256, 1), (288, 3, 2)),
        branch(1088, (256, 1), (288, 3), (320, 3, 2)),
        nn.MaxPool2d(3, stride=2),
    )


def block8(*, scale: float, activation: bool = True) -> ResidualBranches:
    """2080 channels."""
    branches = branch(2080, (192, 1)), branch(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))
    return ResidualBranches(*branches, mixed_channels=448, channels=2080, scale=scale, activation=activation)
