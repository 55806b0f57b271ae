"""Inception-ResNet-v2, cut after any unit."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..argument_checks import check_option, check_positive
from ..layers import inception_layers as layers
from ..layers.feature_maps import FeatureInfo, Pooling, global_pooling
from ..layers.inception_layers import Branches, ConvNormRelu, block8, block17, block17_branches, block35
from ..weights.load_weights import Weights
from ..weights.pretrained_weights import load_pretrained_weights

# The name of each logical unit in the state dict, its constructor, and its number of output channels.
UNITS: tuple[tuple[str, Callable[[], nn.Module], int], ...] = (
    ("mixed_5b", layers.mixed_5b, 320),
    *((f"repeat.{i}", block35, 320) for i in range(10)),
    ("mixed_6a", layers.mixed_6a, 1088),
    *((f"repeat_1.{i}", block17, 1088) for i in range(20)),
    ("mixed_7a", layers.mixed_7a, 2080),
    *((f"repeat_2.{i}", lambda: block8(scale=0.2), 2080) for i in range(9)),
    ("block8", lambda: block8(scale=1.0, activation=False), 2080),
    ("conv2d_7b", lambda: ConvNormRelu(2080, 1536, 1), 1536),
)


class BackboneInceptionResnetV2(nn.Module):
    """Inception-ResNet-v2 without its classifier, up to any of its logical units.

    | unit | layer | channels |
    |---|---|---|
    | 0 | stem, up to `mixed_5b` | 320 |
    | 1 to 10 | `repeat`: ten blocks "35" | 320 |
    | 11 | `mixed_6a` | 1088 |
    | 12 to 31 | `repeat_1`: twenty blocks "17" | 1088; 384 or 1088 where the network ends |
    | 32 | `mixed_7a` | 2080 |
    | 33 to 41 | `repeat_2`: nine blocks "8" | 2080 |
    | 42 | `block8`, without ReLU | 2080 |
    | 43 | `conv2d_7b` | 1536 |

    Source: Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, AAAI
    2017, https://arxiv.org/abs/1602.07261.

    Args:
        logical_units_num: the last unit, from 0 to 43.
        intra_block_cut_level: the point where the last block "17" ends, if the network ends with it (units 12 to 31):
            384 for the concatenated branches, before they are added to the block's input; 1088 for the sum, before its
            ReLU.
        in_channels: the number of channels of the images.
        weights: a state dict or the path of a `.pth` or `.safetensors` file, with the names of Cadene's
            pretrained-models or of timm. They may be of the full network, whatever `logical_units_num`: units behind
            the cut and the classifier are left out; all others must fit. They are adapted to `in_channels` as in
            `BackboneResnet`. None initializes at random.
        pool: `"avg"` or `"max"` to return a vector instead of a feature map.
        weights_strict: names that need not fit, see `BackboneResnet`.

    Attributes:
        load_report: see `BackboneResnet`.
        feature_depth: the number of channels of the output.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.

    Example:
        >>> import torch
        >>> backbone = BackboneInceptionResnetV2(logical_units_num=1, in_channels=1)
        >>> backbone(torch.zeros(1, 1, 75, 75)).shape, backbone.feature_depth
        (torch.Size([1, 320, 7, 7]), 320)
    """

    def __init__(
        self,
        logical_units_num: int = 14,
        intra_block_cut_level: int = 384,
        in_channels: int = 3,
        weights: Weights | None = None,
        pool: Pooling | None = None,
        weights_strict: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        if logical_units_num not in range(len(UNITS)):
            raise ValueError(
                f"BackboneInceptionResnetV2(logical_units_num=) takes 0 to {len(UNITS) - 1}, got {logical_units_num!r}."
            )
        if intra_block_cut_level not in (384, 1088):
            raise ValueError(
                f"BackboneInceptionResnetV2(intra_block_cut_level=) takes 384 or 1088, got {intra_block_cut_level!r}."
            )
        in_channels = check_positive(in_channels, "BackboneInceptionResnetV2(in_channels=)")
        check_option(pool, (None, "avg", "max"), "BackboneInceptionResnetV2(pool=)")
        self.conv2d_1a = ConvNormRelu(in_channels, 32, 3, stride=2)
        self.conv2d_2a = ConvNormRelu(32, 32, 3)
        self.conv2d_2b = ConvNormRelu(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvNormRelu(64, 80, 1)
        self.conv2d_4a = ConvNormRelu(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        for name, make, _ in UNITS[:logical_units_num]:
            self._append(name, make())
        last, make, self.feature_depth = UNITS[logical_units_num]
        unused = [name for name, _, _ in UNITS[logical_units_num + 1 :]]
        if not last.startswith("repeat_1."):
            self._append(last, make())
        elif intra_block_cut_level == 1088:
            self._append(last, block17(activation=False))
        else:
            self._append(last, Branches(*block17_branches()))
            self.feature_depth = 384
            unused.append(f"{last}.conv2d")
        self._order = tuple(name for name, _ in self.named_children())
        self.pool = pool
        left_out = ("last_linear", "classif", "fc", *unused)
        self.load_report = load_pretrained_weights(
            self, weights, strict=weights_strict, first_convolution="conv2d_1a.conv", left_out=left_out
        )

    def _append(self, name: str, unit: nn.Module) -> None:
        """Register a unit; those of the name `repeat.0` in a sequence called `repeat`."""
        stage, _, index = name.partition(".")
        if not index:
            self.add_module(name, unit)
        elif index == "0":
            self.add_module(stage, nn.Sequential(unit))
        else:
            getattr(self, stage).append(unit)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and strides of the maps of `feature_maps`. Convolutions without padding make them a bit smaller."""
        return tuple(FeatureInfo(channels, (stride, stride)) for _, channels, stride in self._levels())

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The last map at each stride: 2, 4, 8 and, as far as the network goes, 16 and 32."""
        ends = {name for name, _, _ in self._levels()}
        maps = []
        for name in self._order:
            x = self._modules[name](x)  # type: ignore[misc]  # none of them is None
            if name in ends:
                maps.append(x)
        return maps

    def _levels(self) -> list[tuple[str, int, int]]:
        """The child after which each level ends, its channels and its stride."""
        last = self._order[-1]
        levels = [("conv2d_2b", 64, 2), ("conv2d_4a", 192, 4), ("repeat", 320, 8), ("repeat_1", 1088, 16)]
        if last in ("mixed_5b", "repeat"):
            return [*levels[:2], (last, self.feature_depth, 8)]
        if last in ("mixed_6a", "repeat_1"):
            return [*levels[:3], (last, self.feature_depth, 16)]
        return [*levels, (last, self.feature_depth, 32)]

    def forward(self, x: Tensor) -> Tensor:
        """Features of images.

        Args:
            x: `(batch, in_channels, height, width)`; at least 75 pixels a side for the full network.

        Returns:
            `(batch, feature_depth, height', width')`, or `(batch, feature_depth)` with `pool`.
        """
        for name in self._order:
            x = self._modules[name](x)  # type: ignore[misc]  # none of them is None
        return x if self.pool is None else global_pooling(x, self.pool)
