"""Residual networks for images."""

from torch import Tensor, nn

from ..argument_checks import check_option, check_positive
from ..layers.global_pooling import Pooling, check_pooling, global_pooling
from ..layers.residual_layers import initialise, residual_stage
from ..weights.pretrained_weights import Weights, load_pretrained_weights

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
        weights: a state dict, the path of a `.pth` or `.safetensors` file, or a member of a torchvision weights enum.
            All must fit, except the classifier (`fc`), which is left out. None initialises at random. If the first
            convolution of the weights has 3 channels and `in_channels` is another number, it is summed for one
            channel, otherwise repeated cyclically and scaled by `3 / in_channels`.
        in_channels: the number of channels of the images.
        name: `resnet18`, `resnet34`, `resnet50`, `resnet101` or `resnet152`.
        pool: `"avg"` or `"max"` to return a vector instead of a feature map.

    Attributes:
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
    ) -> None:
        super().__init__()
        check_option(name, DEPTHS, "BackboneResnet(name=)")
        check_positive(in_channels, "BackboneResnet(in_channels=)")
        check_pooling(pool, "BackboneResnet(pool=)")
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
        self.feature_depth = 512 * grown
        self.pool = pool
        initialise(self)
        if weights is not None:
            load_pretrained_weights(self, weights, first_convolution="conv1", classifiers=("fc",))

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
