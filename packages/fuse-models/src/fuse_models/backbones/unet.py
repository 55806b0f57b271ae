"""U-Nets for images and volumes, with the architecture of nnU-Net's."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..argument_checks import check_all_positive, check_option, check_positive, sizes_of_axes
from ..conv_inputs import is_symbolic
from ..layers.feature_maps import FeatureInfo
from ..layers.unet_layers import NORMS, Decoder, Encoder, Norm, Sizes, initialise
from ..weights.load_weights import Weights
from ..weights.pretrained_weights import load_pretrained_weights

Level = int | Sequence[int]


class BackboneUNet(nn.Module):
    """A U-Net without its last, classifying layer: `HeadDenseSegmentation(layers_description=())` is that layer.

    The architecture and the names of the weights are those of nnU-Net's dynamic U-Nets (`PlainConvUNet` and
    `ResidualEncoderUNet` of dynamic-network-architectures), so that their weights load, and give the same maps.

    Source: Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
    Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z; residual encoders: https://arxiv.org/abs/2404.09556.

    Args:
        in_channels: the number of channels of the images or volumes.
        ndim: 2 for images, 3 for volumes.
        features_per_level: the number of channels of each level, finest first (nnU-Net: `features_per_stage`).
        strides: the stride of each level, a number or one for each axis; that of the first is usually 1. None is 1 for
            the first level and 2 for the others.
        block: `"plain"` for convolutions in the encoder, `"residual"` for residual blocks.
        norm: `"instance"` or `"batch"` normalization.
        deep_supervision: whether to return, in training mode, the maps of all levels of the decoder, finest first, for
            `HeadDenseSegmentation(deep_supervision=)`. In eval mode the finest map is returned alone.
        kernel_sizes: odd kernel sizes, a number for all levels or one (or one for each axis) for each level.
        blocks_per_level: the number of convolutions or residual blocks of each level of the encoder. None is 2
            convolutions, or 1, 3, 4, 6, 6, ... residual blocks.
        decoder_convs: the number of convolutions of each level of the decoder, coarsest first. None is 2 for plain, 1
            for residual encoders.
        weights: a state dict or a file, see `load_weights`.
        weights_strict: names that need not fit, see `load_weights`.

    Attributes:
        feature_depth: the number of channels of the output, `features_per_level[0]`.
        feature_info: channels and strides of the maps of `feature_maps`.
        load_report: what was loaded; None without weights.

    Raises:
        ValueError: the plan is inconsistent, the weights do not fit, or an input has another rank or a size that the
            strides do not divide.

    Example:
        >>> import torch
        >>> backbone = BackboneUNet(in_channels=1, ndim=3, features_per_level=(8, 16, 32))
        >>> backbone(torch.zeros(2, 1, 8, 16, 16)).shape, backbone.feature_depth
        (torch.Size([2, 8, 8, 16, 16]), 8)
    """

    def __init__(
        self,
        in_channels: int = 1,
        ndim: Literal[2, 3] = 2,
        features_per_level: Sequence[int] = (32, 64, 128, 256, 512, 512),
        strides: Sequence[Level] | None = None,
        block: Literal["plain", "residual"] = "plain",
        norm: Norm = "instance",
        deep_supervision: bool = False,
        *,
        kernel_sizes: int | Sequence[Level] = 3,
        blocks_per_level: Sequence[int] | None = None,
        decoder_convs: Sequence[int] | None = None,
        weights: Weights | None = None,
        weights_strict: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        in_channels = check_positive(in_channels, "BackboneUNet(in_channels=)")
        if ndim not in (2, 3):
            raise ValueError(f"BackboneUNet(ndim=) takes 2 for images or 3 for volumes, got {ndim!r}.")
        features = check_all_positive(features_per_level, "BackboneUNet(features_per_level=)")
        levels = len(features)
        if levels < 2:
            raise ValueError(f"BackboneUNet(features_per_level=) takes two levels or more, got {features}.")
        check_option(block, ("plain", "residual"), "BackboneUNet(block=)")
        check_option(norm, dict.fromkeys(name for name, _ in NORMS), "BackboneUNet(norm=)")
        is_residual = block == "residual"
        given_strides = (1, *[2] * (levels - 1)) if strides is None else strides
        all_strides = _per_level(given_strides, levels, ndim, "BackboneUNet(strides=)")
        kernels = _per_level(
            kernel_sizes if isinstance(kernel_sizes, Iterable) else [kernel_sizes] * levels,
            levels,
            ndim,
            "BackboneUNet(kernel_sizes=)",
        )
        if not all(size % 2 for kernel in kernels for size in kernel):
            raise ValueError(f"BackboneUNet(kernel_sizes=) takes odd sizes, got {kernel_sizes}.")
        blocks = blocks_per_level
        if blocks is None:
            blocks = [1, 3, 4, *[6] * levels][:levels] if is_residual else [2] * levels
        blocks = check_all_positive(blocks, "BackboneUNet(blocks_per_level=)", count=levels)
        convs = [1 if is_residual else 2] * (levels - 1) if decoder_convs is None else decoder_convs
        convs = check_all_positive(convs, "BackboneUNet(decoder_convs=)", count=levels - 1)
        self.encoder = Encoder(in_channels, features, all_strides, kernels, blocks, is_residual, norm)
        self.decoder = Decoder(features, all_strides, kernels, convs, norm)
        self.ndim = ndim
        self.deep_supervision = deep_supervision
        total: Sizes = (1,) * ndim
        info = []
        for channels, stride in zip(features, all_strides, strict=True):
            total = tuple(a * b for a, b in zip(total, stride, strict=True))
            info.append(FeatureInfo(channels, total))
        self.feature_info = tuple(info)
        self.feature_depth = features[0]
        initialise(self)
        first = "encoder.stem.convs.0.conv" if is_residual else "encoder.stages.0.0.convs.0.conv"
        self.load_report = load_pretrained_weights(
            self, weights, strict=weights_strict, first_convolution=first, left_out=("decoder.seg_layers",)
        )

    def forward(self, x: Tensor) -> Any:
        """Features of images or volumes.

        Args:
            x: `(batch, in_channels, *spatial)`, with sizes that the product of all strides divides.

        Returns:
            `(batch, feature_depth, *spatial / strides[0])`; in training mode with `deep_supervision` a list of the maps
            of all levels but the lowest, finest first.
        """
        maps = self.feature_maps(x)[:-1]
        return maps if self.deep_supervision and self.training else maps[0]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of all levels, finest first: those of the decoder, and the lowest of the encoder."""
        total = self.feature_info[-1].stride
        if not is_symbolic(x) and (x.ndim != self.ndim + 2 or any(map(operator.mod, x.shape[2:], total))):
            raise ValueError(
                f"BackboneUNet takes {self.ndim}D inputs (batch, channels, *spatial) with spatial sizes divisible by "
                f"{total}, the product of all strides, got the shape {tuple(x.shape)}. Pad the input."
            )
        maps = self.encoder(x)
        return [*self.decoder(maps), maps[-1]]


def _per_level(values: Sequence[Level], levels: int, ndim: int, where: str) -> tuple[Sizes, ...]:
    listed = list(values) if isinstance(values, Iterable) else []
    if len(listed) != levels:
        raise ValueError(f"{where} takes one value for each of the {levels} features_per_level, got {values!r}.")
    return tuple(sizes_of_axes(value, ndim, where) for value in listed)
