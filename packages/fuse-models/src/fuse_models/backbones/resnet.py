"""Residual networks for images."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..argument_checks import check_option, check_positive
from ..layers.feature_maps import FeatureInfo, Pooling, global_pooling
from ..layers.residual_layers import initialise, residual_stage
from ..weights.load_weights import Weights
from ..weights.pretrained_weights import load_pretrained_weights

DEPTHS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""For each name, whether its blocks are bottlenecks, and the number of blocks of its four stages."""


class BackboneResnet(nn.Module):
    """A ResNet without its classifier. Its state dict has torchvision's names, so torchvision's weights load into it.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, https://arxiv.org/abs/1512.03385, with
    the stride of bottleneck blocks at the second convolution ("v1.5"), as in torchvision.

    Args:
        weights: a state dict, the path of a `.pth`, `.ckpt` or `.safetensors` file, or a member of a torchvision
            weights enum; see `load_weights`. All must fit, except the classifier (`fc`), which is left out. None
            initializes at random. If the first convolution of the weights has 3 channels and `in_channels` is another
            number, it is summed for one channel, otherwise repeated cyclically and scaled by `3 / in_channels`.
        in_channels: the number of channels of the images.
        name: `resnet18`, `resnet34`, `resnet50`, `resnet101` or `resnet152`.
        pool: `"avg"` or `"max"` to return a vector instead of a feature map.
        weights_strict: names that need not fit, such as `["conv1"]`: those that do not are not loaded.

    Attributes:
        feature_info: channels and strides of the maps of `feature_maps`.
        load_report: what was loaded, what is missing and what was left; None without weights.
        feature_depth: the number of channels of the output: 512, from `resnet50` on 2048.

    Raises:
        ValueError: unknown name or pooling, or weights that do not fit.

    Example:
        >>> import torch
        >>> backbone = BackboneResnet(in_channels=1, name="resnet18", pool="avg")
        >>> backbone(torch.zeros(2, 1, 64, 64)).shape, backbone.feature_depth
        (torch.Size([2, 512]), 512)
    """

    def __init__(
        self,
        *,
        weights: Weights | None = None,
        in_channels: int = 3,
        name: str = "resnet18",
        pool: Pooling | None = None,
        weights_strict: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        check_option(name, DEPTHS, "BackboneResnet(name=)")
        in_channels = check_positive(in_channels, "BackboneResnet(in_channels=)")
        check_option(pool, (None, "avg", "max"), "BackboneResnet(pool=)")
        bottleneck, blocks = DEPTHS[name]
        grown = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = residual_stage(2, 64, 64, blocks[0], 1, bottleneck)
        self.layer2 = residual_stage(2, 64 * grown, 128, blocks[1], 2, bottleneck)
        self.layer3 = residual_stage(2, 128 * grown, 256, blocks[2], 2, bottleneck)
        self.layer4 = residual_stage(2, 256 * grown, 512, blocks[3], 2, bottleneck)
        depths = (64 * grown, 128 * grown, 256 * grown, 512 * grown)
        self.feature_info = tuple(FeatureInfo(c, (s, s)) for c, s in zip((64, *depths), (2, 4, 8, 16, 32), strict=True))
        self.feature_depth = 512 * grown
        self.pool = pool
        initialise(self)
        self.load_report = load_pretrained_weights(
            self, weights, strict=weights_strict, first_convolution="conv1", left_out=("fc",)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of images.

        Args:
            x: `(batch, in_channels, height, width)`.

        Returns:
            `(batch, feature_depth, height / 32, width / 32)`, rounded up, or `(batch, feature_depth)` with `pool`.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x if self.pool is None else global_pooling(x, self.pool)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of the stem (before its pooling) and of the four stages: strides 2, 4, 8, 16 and 32."""
        maps = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps
