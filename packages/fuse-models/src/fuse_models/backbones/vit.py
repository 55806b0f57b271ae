"""Vision transformers for images and volumes."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..argument_checks import check_option, check_positive, check_rate, sizes_of_axes
from ..conv_inputs import is_symbolic
from ..layers.transformer_layers import TransformerBlock, initialise
from ..layers.unet_layers import CONVOLUTIONS
from ..weights.load_weights import Weights
from ..weights.pretrained_weights import load_pretrained_weights


class PatchEmbedding(nn.Module):
    """A token for each patch: a convolution, `proj`, of the patch's size and stride."""

    def __init__(self, in_channels: int, patch: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        self.proj = CONVOLUTIONS[len(patch)](in_channels, embed_dim, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *spatial)` to `(batch, patches, embed_dim)`."""
        return cast(Tensor, self.proj(x).flatten(2).transpose(1, 2))


class BackboneViT(nn.Module):
    """A vision transformer without its classifier. In 2D its weights have timm's names, so that timm's weights load.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, https://arxiv.org/abs/2010.11929.

    Args:
        in_channels: the number of channels of the images or volumes.
        image_size: the size of the input, a number for all axes or one for each.
        patch_size: the size of a patch, likewise; it must divide the image's.
        embed_dim: the size of a token.
        depth: the number of blocks.
        num_heads: the number of attention heads; it must divide `embed_dim`.
        ndim: 2 for images, 3 for volumes.
        mlp_ratio: the ratio of an MLP's hidden size to `embed_dim`.
        dropout_rate: dropout rate within the blocks.
        pool: None for a feature map of one location a patch; `"class"` for the class token, `"avg"` for the mean of the
            patches' tokens.
        class_token: whether there is a class token.
        weights: a state dict or a file, see `load_weights`; timm's classifier is left out.
        weights_strict: names that need not fit, see `load_weights`.

    Attributes:
        feature_depth: `embed_dim`.
        load_report: what was loaded; None without weights.

    Raises:
        ValueError: an argument is out of range, sizes do not divide, or an input has another size than `image_size`.

    Example:
        >>> import torch
        >>> backbone = BackboneViT(1, image_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, ndim=3)
        >>> backbone(torch.zeros(2, 1, 32, 32, 32)).shape
        torch.Size([2, 48, 4, 4, 4])
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        *,
        ndim: Literal[2, 3] = 2,
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        pool: Literal["class", "avg"] | None = None,
        class_token: bool = True,
        weights: Weights | None = None,
        weights_strict: bool | Sequence[str] = True,
    ) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise ValueError(f"BackboneViT(ndim=) takes 2 for images or 3 for volumes, got {ndim!r}.")
        in_channels = check_positive(in_channels, "BackboneViT(in_channels=)")
        embed_dim = check_positive(embed_dim, "BackboneViT(embed_dim=)")
        depth = check_positive(depth, "BackboneViT(depth=)")
        num_heads = check_heads(embed_dim, num_heads, "BackboneViT")
        dropout_rate = check_rate(dropout_rate, "BackboneViT(dropout_rate=)")
        check_option(pool, (None, "class", "avg"), "BackboneViT(pool=)")
        if pool == "class" and not class_token:
            raise ValueError("BackboneViT(pool='class') needs class_token=True.")
        self.image_size = sizes_of_axes(image_size, ndim, "BackboneViT(image_size=)")
        patch = sizes_of_axes(patch_size, ndim, "BackboneViT(patch_size=)")
        if any(size % part for size, part in zip(self.image_size, patch, strict=True)):
            raise ValueError(f"BackboneViT(image_size={self.image_size}) must be divisible by patch_size={patch}.")
        self._grid = tuple(size // part for size, part in zip(self.image_size, patch, strict=True))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, math.prod(self._grid) + class_token, embed_dim))
        self.patch_embed = PatchEmbedding(in_channels, patch, embed_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, dropout_rate) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.feature_depth = embed_dim
        self.pool = pool
        initialise(self)
        self.load_report = load_pretrained_weights(
            self, weights, strict=weights_strict, first_convolution="patch_embed.proj", left_out=("head",)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of images or volumes.

        Args:
            x: `(batch, in_channels, *image_size)`.

        Returns:
            `(batch, embed_dim, *image_size / patch_size)`, or `(batch, embed_dim)` with `pool`.
        """
        if not is_symbolic(x) and x.shape[2:] != self.image_size:
            raise ValueError(
                f"BackboneViT(image_size={self.image_size}) takes inputs of this size, got the shape {tuple(x.shape)}. "
                f"Resize the input, or make the backbone for it."
            )
        tokens: Tensor = self.patch_embed(x)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        tokens = cast(Tensor, self.norm(tokens))
        if self.pool == "class":
            return tokens[:, 0]
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        if self.pool == "avg":
            return tokens.mean(dim=1)
        return torch.unflatten(tokens.transpose(1, 2), 2, self._grid)


def check_heads(embed_dim: int, num_heads: int, owner: str) -> int:
    """`num_heads` as `int`. Raises `ValueError` unless the tokens can be divided among the attention heads."""
    num_heads = check_positive(num_heads, f"{owner}(num_heads=)")
    if embed_dim % num_heads:
        raise ValueError(f"{owner}(embed_dim={embed_dim}) must be divisible by num_heads={num_heads}.")
    return num_heads
