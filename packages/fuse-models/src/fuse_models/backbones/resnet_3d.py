"""Residual networks for volumes and videos."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_positive
from ..layers.global_pooling import Pooling, check_pooling, global_pooling
from ..layers.residual_layers import initialise, residual_stage
from ..weights.pretrained_weights import Weights, load_pretrained_weights

Triple = tuple[int, int, int]


class BackboneResnet3D(nn.Module):
    """A ResNet of 3D convolutions without its classifier. By default it is r3d_18 and takes torchvision's weights.

    Source: Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018 (R3D),
    https://arxiv.org/abs/1711.11248.

    Args:
        in_channels: the number of channels of the volumes.
        pool: `"avg"` or `"max"` to return a vector instead of a feature map. True is `"avg"`, False is None.
        layers: the number of blocks in each stage. All stages but the first halve each axis and double the channels.
        first_channel_dim: the number of channels of the stem and of the first stage.
        first_stride: the stride of the first stage; 2 halves each axis once more.
        stem_kernel_size: kernel size of the first convolution, one odd number for all axes or one for each.
        stem_stride: its stride, likewise. The default keeps the size of the first axis (depth or time).
        weights: a state dict, the path of a `.pth` or `.safetensors` file, or a member of a torchvision weights enum.
            They are adapted to `in_channels` as in `BackboneResnet`. None initialises at random.

    Attributes:
        feature_depth: the number of channels of the output: `first_channel_dim * 2 ** (len(layers) - 1)`.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.

    Example:
        >>> import torch
        >>> backbone = BackboneResnet3D(in_channels=1, layers=[1, 1, 1, 1], first_channel_dim=8)
        >>> backbone(torch.zeros(2, 1, 16, 32, 32)).shape, backbone.feature_depth
        (torch.Size([2, 64, 2, 2, 2]), 64)
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        pool: Pooling | bool | None = None,
        layers: Sequence[int] = (2, 2, 2, 2),
        first_channel_dim: int = 64,
        first_stride: int = 1,
        stem_kernel_size: int | Sequence[int] = (3, 7, 7),
        stem_stride: int | Sequence[int] = (1, 2, 2),
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pool, bool):
            pool = "avg" if pool else None
        check_pooling(pool, "BackboneResnet3D(pool=)")
        check_positive(in_channels, "BackboneResnet3D(in_channels=)")
        check_positive(first_channel_dim, "BackboneResnet3D(first_channel_dim=)")
        check_positive(first_stride, "BackboneResnet3D(first_stride=)")
        check_all_positive(layers, "BackboneResnet3D(layers=)")
        if not layers:
            raise ValueError("BackboneResnet3D(layers=) takes the number of blocks of at least one stage, got none.")
        kernel = _triple(stem_kernel_size, "BackboneResnet3D(stem_kernel_size=)")
        if not all(size % 2 for size in kernel):
            raise ValueError(f"BackboneResnet3D(stem_kernel_size=) takes odd sizes, got {kernel}.")
        self.stem = nn.Sequential(
            nn.Conv3d(
                in_channels,
                first_channel_dim,
                kernel_size=kernel,
                stride=_triple(stem_stride, "BackboneResnet3D(stem_stride=)"),
                padding=cast(Triple, tuple(size // 2 for size in kernel)),
                bias=False,
            ),
            nn.BatchNorm3d(first_channel_dim),
            nn.ReLU(inplace=True),
        )
        self._stages = tuple(f"layer{i + 1}" for i in range(len(layers)))
        depth = first_channel_dim
        for i, blocks in enumerate(layers):
            channels = first_channel_dim * 2**i
            stage = residual_stage(3, depth, channels, blocks, 2 if i else first_stride, bottleneck=False)
            self.add_module(self._stages[i], stage)
            depth = channels
        self.feature_depth = depth
        self.pool = pool
        initialise(self)
        if weights is not None:
            load_pretrained_weights(self, weights, first_convolution="stem.0", classifiers=("fc",))

    def forward(self, x: Tensor) -> Tensor:
        """Features of volumes.

        Args:
            x: `(batch, in_channels, depth, height, width)`.

        Returns:
            `(batch, feature_depth, depth', height', width')`, each axis divided by the strides of stem and stages and
            rounded up, or `(batch, feature_depth)` with `pool`.
        """
        x = self.stem(x)
        for name in self._stages:
            x = self._modules[name](x)  # type: ignore[misc]  # none of them is None
        return x if self.pool is None else global_pooling(x, self.pool)


def _triple(sizes: int | Sequence[int], where: str) -> Triple:
    triple = (sizes,) * 3 if isinstance(sizes, int) else tuple(sizes)
    check_all_positive(triple, where, count=3)
    return cast(Triple, triple)
