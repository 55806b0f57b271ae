"""Residual networks for volumes and videos."""

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_option, check_positive, sizes_of_axes
from ..layers.feature_maps import FeatureInfo, Pooling, global_pooling
from ..layers.residual_layers import initialise, residual_stage
from ..weights.layouts import MONAI_RESNET
from ..weights.load_weights import Weights
from ..weights.pretrained_weights import load_pretrained_weights

Triple = tuple[int, int, int]


class BackboneResnet3D(nn.Module):
    """A ResNet of 3D convolutions without its classifier. By default it is r3d_18 and takes torchvision's weights.

    MedicalNet's and MONAI's networks have `stem_kernel_size=7` and `stem_pool=True`. The stem's stride is 2 in
    MedicalNet's and by default 1 in MONAI's. Their `layers` are (1, 1, 1, 1) for 10, (2, 2, 2, 2) for 18, (3, 4, 6, 3)
    for 34 and 50, (3, 4, 23, 3) for 101, (3, 8, 36, 3) for 152 and (3, 24, 36, 3) for 200, from 50 on with bottlenecks.

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
        stem_pool: whether a max pooling of kernel 3 and stride 2 follows the first convolution, as in MONAI's and
            MedicalNet's networks.
        block: `"basic"`, or `"bottleneck"` with four times `first_channel_dim * 2 ** stage` output channels.
        shortcut: `"B"` for convolutions where shapes differ, or `"A"` for channels of zeros (MedicalNet's 18 and 34).
        weights: as in `BackboneResnet`; those of MONAI's and MedicalNet's ResNets load, too.
        weights_strict: names that need not fit, see `BackboneResnet`.

    Attributes:
        feature_depth: the number of channels of the output: `first_channel_dim * 2 ** (len(layers) - 1)`, for
            bottlenecks times 4.
        feature_info: channels and strides of the maps of `feature_maps`.
        load_report: see `BackboneResnet`.

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
        stem_pool: bool = False,
        block: Literal["basic", "bottleneck"] = "basic",
        shortcut: Literal["A", "B"] = "B",
        weights_strict: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        if isinstance(pool, bool):
            pool = "avg" if pool else None
        check_option(pool, (None, "avg", "max"), "BackboneResnet3D(pool=)")
        in_channels = check_positive(in_channels, "BackboneResnet3D(in_channels=)")
        first_channel_dim = check_positive(first_channel_dim, "BackboneResnet3D(first_channel_dim=)")
        first_stride = check_positive(first_stride, "BackboneResnet3D(first_stride=)")
        layers = check_all_positive(layers, "BackboneResnet3D(layers=)")
        if not layers:
            raise ValueError("BackboneResnet3D(layers=) takes the number of blocks of at least one stage, got none.")
        check_option(block, ("basic", "bottleneck"), "BackboneResnet3D(block=)")
        check_option(shortcut, ("A", "B"), "BackboneResnet3D(shortcut=)")
        kernel = cast(Triple, sizes_of_axes(stem_kernel_size, 3, "BackboneResnet3D(stem_kernel_size=)"))
        if not all(size % 2 for size in kernel):
            raise ValueError(f"BackboneResnet3D(stem_kernel_size=) takes odd sizes, got {kernel}.")
        stride = cast(Triple, sizes_of_axes(stem_stride, 3, "BackboneResnet3D(stem_stride=)"))
        self.stem = nn.Sequential(
            nn.Conv3d(
                in_channels,
                first_channel_dim,
                kernel_size=kernel,
                stride=stride,
                padding=cast(Triple, tuple(size // 2 for size in kernel)),
                bias=False,
            ),
            nn.BatchNorm3d(first_channel_dim),
            nn.ReLU(inplace=True),
        )
        levels = [FeatureInfo(first_channel_dim, stride)]
        self.stem_pool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1) if stem_pool else nn.Identity()
        stride = _times(stride, 2 if stem_pool else 1)
        self._stages = tuple(f"layer{i + 1}" for i in range(len(layers)))
        depth = first_channel_dim
        is_bottleneck = block == "bottleneck"
        for i, blocks in enumerate(layers):
            channels, stage_stride = first_channel_dim * 2**i, 2 if i else first_stride
            stage = residual_stage(3, depth, channels, blocks, stage_stride, is_bottleneck, shortcut)
            self.add_module(self._stages[i], stage)
            depth = channels * (4 if is_bottleneck else 1)
            stride = _times(stride, stage_stride)
            levels.append(FeatureInfo(depth, stride))
        self._has_stem_level = levels[0].stride != levels[1].stride
        self.feature_info = tuple(levels if self._has_stem_level else levels[1:])
        self.feature_depth = depth
        self.pool = pool
        initialise(self)
        self.load_report = load_pretrained_weights(
            self, weights, strict=weights_strict, first_convolution="stem.0", left_out=("fc", "conv_seg")
        )
        if self.load_report is not None and self.load_report.layout == MONAI_RESNET and not stem_pool:
            raise ValueError(
                f"BackboneResnet3D(weights=) got weights with the names of {MONAI_RESNET}, whose stem ends in a max "
                "pooling, but stem_pool=False. The outputs would be wrong. Give stem_pool=True. For a network made "
                "with MONAI's no_max_pool=True, use load_weights(backbone, weights, strict=['fc'])."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features of volumes.

        Args:
            x: `(batch, in_channels, depth, height, width)`.

        Returns:
            `(batch, feature_depth, depth', height', width')`, each axis divided by the strides of stem and stages and
            rounded up, or `(batch, feature_depth)` with `pool`.
        """
        x = self.stem_pool(self.stem(x))
        for name in self._stages:
            x = self._modules[name](x)  # type: ignore[misc]  # none of them is None
        return x if self.pool is None else global_pooling(x, self.pool)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of all levels, finest first: of the stem, if it is finer than the first stage, and of each stage."""
        x = self.stem(x)
        maps = [x] if self._has_stem_level else []
        x = self.stem_pool(x)
        for name in self._stages:
            x = self._modules[name](x)  # type: ignore[misc]  # none of them is None
            maps.append(x)
        return maps


def _times(stride: Triple, factor: int) -> Triple:
    return cast(Triple, tuple(size * factor for size in stride))
