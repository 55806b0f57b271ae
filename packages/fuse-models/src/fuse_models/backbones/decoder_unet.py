"""A U-Net decoder on any backbone with maps of several resolutions."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..argument_checks import check_all_positive
from ..conv_inputs import is_symbolic
from ..layers.feature_maps import FeatureInfo
from ..layers.unet_layers import CONVOLUTIONS, NORMS


class DecoderUNet(nn.Module):
    """A backbone whose feature maps are brought back to the input's size, with those of finer levels joined.

    From the coarsest level on, a map is upsampled (nearest) to the size of the next finer one, concatenated with it on
    the channel axis, and goes through two convolutions with batch normalization and ReLU. At the input's size there is
    usually nothing to join.

    Source: Ronneberger et al., U-Net, MICCAI 2015, https://arxiv.org/abs/1505.04597.

    Args:
        backbone: one of ours with `feature_maps`, or a module that returns a list of maps, finest first, such as timm's
            with `features_only=True` and networks of MONAI.
        channels: the number of channels of each level of the decoder, coarsest first: one for each finer level of the
            backbone, and one for the input's size if no level has it.
        feature_info: `(channels, stride)` of each level of the backbone, finest first, where the backbone has no
            `feature_info` of its own.
        ndim: 2 for images, 3 for volumes; None to take it from the backbone's strides, which a single number leaves 2.

    Attributes:
        backbone: the backbone.
        feature_depth: the number of channels of the output.

    Raises:
        ValueError: there is no `feature_info`, the channels are not as many as levels, the input has another rank, or
            the backbone returns other maps than it tells.

    Example:
        >>> from fuse_models import BackboneResnet
        >>> decoder = DecoderUNet(BackboneResnet(in_channels=1))
        >>> decoder(torch.zeros(2, 1, 64, 64)).shape, decoder.feature_depth
        (torch.Size([2, 16, 64, 64]), 16)
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int] | None = None,
        *,
        feature_info: Sequence[tuple[int, int | Sequence[int]]] | None = None,
        ndim: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"DecoderUNet(backbone=) takes a module, got {backbone!r}.")
        levels = _feature_levels(backbone, feature_info)
        rank = ndim or max(len(level.stride) for level in levels)
        if rank not in CONVOLUTIONS:
            raise ValueError(f"DecoderUNet(ndim=) takes 2 or 3, got {rank}.")
        skips = [level.channels for level in levels[-2::-1]]
        if max(levels[0].stride) > 1:
            skips.append(0)  # of the input's size, with nothing to join
        if channels is None:
            channels = [max(16, 256 // 2**i) for i in range(len(skips))]
        channels = check_all_positive(channels, "DecoderUNet(channels=)", count=len(skips))
        self.backbone = backbone
        self.ndim = rank
        self.channels_of_levels = tuple(level.channels for level in levels)
        inputs = [levels[-1].channels, *channels[:-1]]
        self.blocks = nn.ModuleList(
            _two_convolutions(below + skip, out, rank) for below, skip, out in zip(inputs, skips, channels, strict=True)
        )
        self.feature_depth = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, feature_depth, *spatial)`."""
        if not is_symbolic(x) and x.ndim != self.ndim + 2:
            raise ValueError(
                f"DecoderUNet(ndim={self.ndim}) takes {self.ndim}D inputs (batch, channels, *spatial), got the shape "
                f"{tuple(x.shape)}. Give the ndim of the backbone: feature_info with single numbers leaves it at 2."
            )
        backbone: Any = self.backbone
        maps = list(backbone.feature_maps(x) if hasattr(backbone, "feature_maps") else backbone(x))
        if getattr(backbone, "output_fmt", "NCHW") == "NHWC":  # timm's Swin
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        found = tuple(feature_map.shape[1] for feature_map in maps)
        if not is_symbolic(x) and found != self.channels_of_levels:
            raise ValueError(
                f"DecoderUNet expects maps of {self.channels_of_levels} channels from {type(backbone).__name__}, "
                f"finest first, got {found}. Give feature_info of the maps that it returns."
            )
        skips, result = maps[:-1], cast(Tensor, maps[-1])
        for i, block in enumerate(self.blocks):
            skip = skips[-1 - i] if i < len(skips) else None
            result = F.interpolate(result, size=x.shape[2:] if skip is None else skip.shape[2:], mode="nearest")
            result = cast(Tensor, block(result if skip is None else torch.cat([result, skip], dim=1)))
        return result


def _feature_levels(backbone: Any, given: Sequence[tuple[int, int | Sequence[int]]] | None) -> list[FeatureInfo]:
    info = given if given is not None else getattr(backbone, "feature_info", None)
    if info is None:
        raise ValueError(
            f"DecoderUNet needs channels and strides of the maps, but {type(backbone).__name__} has no feature_info. "
            f"Give feature_info=[(channels, stride), ...], finest first."
        )
    if hasattr(info, "channels") and hasattr(info, "reduction"):  # timm's
        info = list(zip(info.channels(), info.reduction(), strict=True))
    levels = [
        FeatureInfo(channels, tuple(stride) if isinstance(stride, Iterable) else (stride, stride))
        for channels, stride in info
    ]
    if len(levels) < 2:
        raise ValueError(f"DecoderUNet needs maps of two levels or more, got feature_info={info}.")
    if max(levels[0].stride) > max(levels[-1].stride):
        raise ValueError(
            f"DecoderUNet needs the finest map first, got feature_info={info}. If the backbone returns the coarsest "
            f"first, wrap it in a module that reverses its list, and reverse feature_info."
        )
    return levels


def _two_convolutions(in_channels: int, channels: int, ndim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (in_channels, channels):
        convolution = CONVOLUTIONS[ndim](size, channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_uniform_(convolution.weight, mode="fan_in", nonlinearity="relu")
        layers += [convolution, NORMS["batch", ndim](channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
