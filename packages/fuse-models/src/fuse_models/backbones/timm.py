"""Any model of timm as a backbone. Needs the extra `timm`."""

import importlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fuse_core import did_you_mean

from ..argument_checks import check_option, check_positive


class BackboneTimm(nn.Module):
    """A model of timm by its name, without its classifier, whose output is always a map or a vector.

    Convolutional networks, those with the channels last (Swin) and those of tokens (ViT) give the same kind of output.

    Args:
        name: the name of the model, see `timm.list_models()`.
        in_channels: the number of channels of the images.
        output: `"map"`, `(batch, feature_depth, height, width)`, or `"vector"`, `(batch, feature_depth)`, pooled as the
            model's authors do before the classifier.
        pretrained: whether to load timm's weights, which are downloaded from Hugging Face unless they are in its cache.
        options: more arguments of `timm.create_model`, such as `img_size`.

    Attributes:
        feature_depth: the number of channels of the output, whatever timm calls it for this model.
        model: timm's model. Weights that the output does not depend on are frozen, so that every trained weight has a
            gradient, as DistributedDataParallel needs.

    Raises:
        ImportError: timm is not installed.
        ValueError: there is no model of this name, or it does not give maps.

    Example:
        >>> import importlib.util, pytest
        >>> if importlib.util.find_spec("timm") is None:
        ...     pytest.skip("needs the extra timm")
        >>> import torch
        >>> backbone = BackboneTimm("test_vit", in_channels=1)
        >>> backbone(torch.zeros(2, 1, 160, 160)).shape, backbone.feature_depth
        (torch.Size([2, 64, 10, 10]), 64)
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        output: Literal["map", "vector"] = "map",
        *,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        in_channels = check_positive(in_channels, "BackboneTimm(in_channels=)")
        check_option(output, ("map", "vector"), "BackboneTimm(output=)")
        try:
            timm: Any = importlib.import_module("timm")
        except ImportError as error:
            raise ImportError("BackboneTimm needs timm: pip install 'fuse-models[timm]'.") from error
        if ":" not in name and not timm.is_model(name.partition(".")[0]):  # a colon is for names on Hugging Face
            nearest = did_you_mean(name, timm.list_models(), n=3)
            raise ValueError(f"BackboneTimm(name=) takes the name of a model of timm, got {name!r}.{nearest}")
        self.output = output
        self.model: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options)
        with torch.device("meta"):  # a twin without values, which tells what the model gives without computing it
            twin = timm.create_model(name, in_chans=in_channels, num_classes=0, **options).eval()
        size = options.get("img_size", twin.pretrained_cfg["input_size"][1:])
        trained, self.model = self.model, twin
        features = self(torch.zeros(2, in_channels, *((size, size) if isinstance(size, int) else size), device="meta"))
        features.sum().backward()
        self.model = trained
        self.feature_depth = features.shape[1]  # `num_features` and others mean other layers in some models
        for weight, of_twin in zip(trained.parameters(), twin.parameters(), strict=True):
            if of_twin.grad is None:  # behind the map, as MobileNetV3's last convolution
                weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, height, width)` to a map or a vector of `feature_depth` channels."""
        if self.output == "vector":
            vector: Tensor = self.model(x)
            return vector
        features: Tensor = self.model.forward_features(x)
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else features
        if features.ndim != 3:
            raise ValueError(
                f"BackboneTimm(output='map'): {type(self.model).__name__} gives features of shape "
                f"{tuple(features.shape)}, which are no map. Use output='vector'."
            )
        has_class_token = hasattr(self.model, "cls_token")  # as CaiT, which does not count it
        patches = features[:, getattr(self.model, "num_prefix_tokens", int(has_class_token)) :]
        grid = self._grid(x, patches.shape[1])
        return torch.unflatten(patches.transpose(1, 2), 2, grid)

    def _grid(self, x: Tensor, patches: int) -> tuple[int, int]:
        """The rows and columns of the patches, whose aspect ratio is the image's."""
        rows = round((patches * x.shape[2] / x.shape[3]) ** 0.5)
        if rows < 1 or patches % rows:
            raise ValueError(
                f"BackboneTimm(output='map'): the {patches} tokens of {type(self.model).__name__} are no grid. Use "
                f"output='vector'."
            )
        return rows, patches // rows
