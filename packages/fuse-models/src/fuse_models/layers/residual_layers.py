"""The layers of residual networks, for images and volumes, named as in torchvision's state dicts."""

from torch import Tensor, nn

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ResidualBlock(nn.Module):
    """`relu(x + F(x))`, where F is two or three convolutions, each with batch normalization.

    "Basic" blocks have two convolutions of kernel 3; "bottleneck" blocks a 1, a 3 and a 1, the last with four times the
    channels. The stride is at the first kernel of 3, as in torchvision ("ResNet v1.5"). Source: He et al., Deep
    Residual Learning for Image Recognition, CVPR 2016.

    The shortcut is x itself if the shapes are equal. Otherwise it is, as He et al. call them, a convolution of kernel 1
    ("B"), or x at the stride's locations with channels of zeros appended ("A"), which has no weights.

    Torchvision registers the layers of images and videos under different names, and so does this block:
    `conv1, bn1, conv2, bn2` and `conv1.0, conv1.1, conv2.0, conv2.1`.
    `rank` is 2 for images and 3 for volumes, and `channels` are those of the inner convolutions.
    """

    def __init__(
        self, rank: int, in_channels: int, channels: int, stride: int, bottleneck: bool, shortcut: str = "B"
    ) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = [in_channels, *[channels] * (len(kernels) - 1), channels * (4 if bottleneck else 1)]
        strides = [stride if i == kernels.index(3) else 1 for i in range(len(kernels))]
        order: list[str] = []
        self.relu = nn.ReLU(inplace=True)
        for i, kernel in enumerate(kernels):
            conv = _conv(rank, sizes[i], sizes[i + 1], kernel, strides[i])
            norm = NORMS[rank](sizes[i + 1])
            last = i == len(kernels) - 1
            if rank == 2:
                self.add_module(f"conv{i + 1}", conv)
                self.add_module(f"bn{i + 1}", norm)
                order += [f"conv{i + 1}", f"bn{i + 1}", *["relu"] * (not last)]
            else:
                self.add_module(f"conv{i + 1}", nn.Sequential(conv, norm, *[self.relu] * (not last)))
                order += [f"conv{i + 1}"]
        self._order = tuple(order)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != sizes[-1]:
            projection = nn.Sequential(_conv(rank, in_channels, sizes[-1], 1, stride), NORMS[rank](sizes[-1]))
            self.downsample = (
                projection if shortcut == "B" else ZeroPaddedShortcut(rank, stride, sizes[-1] - in_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, channels, *spatial / stride)`."""
        residual = x
        for name in self._order:
            residual = self._modules[name](residual)  # type: ignore[misc]  # none of them is None
        residual += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(residual)
        return result


class ZeroPaddedShortcut(nn.Module):
    """Every `stride`-th location of the input, with `more_channels` channels of zeros appended."""

    def __init__(self, rank: int, stride: int, more_channels: int) -> None:
        super().__init__()
        self.rank = rank
        self.stride = stride
        self.more_channels = more_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, *spatial)` to `(batch, channels + more_channels, *spatial / stride)`."""
        x = x[(slice(None), slice(None), *[slice(None, None, self.stride)] * self.rank)]
        return nn.functional.pad(x, (0, 0) * self.rank + (0, self.more_channels))


def residual_stage(
    rank: int, in_channels: int, channels: int, blocks: int, stride: int, bottleneck: bool, shortcut: str = "B"
) -> nn.Sequential:
    """A stage of the network: `blocks` blocks, of which the first has the stride."""
    first = ResidualBlock(rank, in_channels, channels, stride, bottleneck, shortcut)
    out_channels = channels * (4 if bottleneck else 1)
    return nn.Sequential(first, *[ResidualBlock(rank, out_channels, channels, 1, bottleneck) for _ in range(1, blocks)])


def initialise(network: nn.Module) -> None:
    """Initialize convolutions as in He et al., Delving Deep into Rectifiers (2015), with the mode "fan out"."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _conv(rank: int, in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Module:
    return CONVOLUTIONS[rank](
        in_channels, out_channels, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=False
    )
