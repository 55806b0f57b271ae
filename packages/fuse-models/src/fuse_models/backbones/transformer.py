"""A transformer encoder over sequences."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..argument_checks import check_option, check_positive, check_rate
from ..conv_inputs import is_symbolic
from ..layers.transformer_layers import TransformerBlock, initialise
from .vit import check_heads


class BackboneTransformer(nn.Module):
    """A transformer encoder over sequences of tokens (indices) or of vectors, with learned positions.

    In `ModelMultiHead`, give `backbone_args=["data.tokens"]`, or `["data.tokens", "data.mask"]` with a mask.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, https://arxiv.org/abs/1706.03762, with the
    normalization before each layer ("pre-norm").

    Args:
        num_tokens: the number of different tokens, for sequences of indices; None for vectors.
        in_features: the size of the vectors, for sequences of vectors; None for tokens.
        embed_dim: the size of the features.
        depth: the number of blocks.
        num_heads: the number of attention heads; it must divide `embed_dim`.
        max_length: the length of the longest sequence.
        mlp_ratio: the ratio of an MLP's hidden size to `embed_dim`.
        dropout_rate: dropout rate of the embedding and within the blocks.
        pool: `"class"` for the class token, `"avg"` for the mean over the sequence, None for the features of each
            position.

    Attributes:
        feature_depth: `embed_dim`.

    Raises:
        ValueError: an argument is out of range, both or neither of `num_tokens` and `in_features` are given, or a
            sequence is longer than `max_length` or of another shape.

    Example:
        >>> import torch
        >>> backbone = BackboneTransformer(num_tokens=100, embed_dim=32, depth=2, num_heads=4, max_length=16)
        >>> backbone(torch.randint(100, (3, 10)), mask=torch.arange(10) < torch.tensor([[10], [7], [3]])).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        num_tokens: int | None = None,
        in_features: int | None = None,
        embed_dim: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        *,
        max_length: int = 512,
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        pool: Literal["class", "avg"] | None = "class",
    ) -> None:
        super().__init__()
        if (num_tokens is None) == (in_features is None):
            raise ValueError("BackboneTransformer takes either num_tokens, for indices, or in_features, for vectors.")
        embed_dim = check_positive(embed_dim, "BackboneTransformer(embed_dim=)")
        depth = check_positive(depth, "BackboneTransformer(depth=)")
        max_length = check_positive(max_length, "BackboneTransformer(max_length=)")
        num_heads = check_heads(embed_dim, num_heads, "BackboneTransformer")
        dropout_rate = check_rate(dropout_rate, "BackboneTransformer(dropout_rate=)")
        check_option(pool, (None, "class", "avg"), "BackboneTransformer(pool=)")
        self.embedding: nn.Module
        if num_tokens is not None:
            num_tokens = check_positive(num_tokens, "BackboneTransformer(num_tokens=)")
            self.embedding = nn.Embedding(num_tokens, embed_dim)
            nn.init.normal_(self.embedding.weight, std=0.02)
        else:
            in_features = check_positive(in_features, "BackboneTransformer(in_features=)")
            self.embedding = nn.Linear(in_features, embed_dim)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim)) if pool == "class" else None
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, max_length, embed_dim))
        self.dropout = nn.Dropout(dropout_rate)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, dropout_rate) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.in_features = in_features
        self.max_length = max_length
        self.feature_depth = embed_dim
        self.pool = pool
        initialise(self)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of sequences.

        Args:
            x: indices `(batch, length)` or vectors `(batch, length, in_features)`.
            mask: `(batch, length)`, True (or 1) where there is an element and False where there is padding.

        Returns:
            `(batch, embed_dim)`, or `(batch, embed_dim, length)` without `pool`, with zeros at padding.
        """
        if not is_symbolic(x):
            self._check(x, mask)
        tokens = self.dropout(self.embedding(x) + self.pos_embed[:, : x.shape[1]])
        present = None if mask is None else mask.bool()
        seen = present
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
            seen = None if present is None else nn.functional.pad(present, (1, 0), value=True)
        elif present is not None:  # a sequence of padding alone would have nothing to attend to
            seen = present | ~present.any(dim=1, keepdim=True)
        attention_mask = None if seen is None else seen[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, attention_mask)
        tokens = cast(Tensor, self.norm(tokens))
        if self.pool == "class":
            return tokens[:, 0]
        if present is not None:
            tokens = tokens.masked_fill(~present[..., None], 0)
        if self.pool is None:
            return tokens.transpose(1, 2)
        length = x.shape[1] if present is None else present.sum(dim=1, keepdim=True).clamp_min(1)
        return tokens.sum(dim=1) / length

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        expected = "(batch, length)" if self.in_features is None else f"(batch, length, {self.in_features})"
        rank = 2 if self.in_features is None else 3
        if x.ndim != rank or (self.in_features is not None and x.shape[2] != self.in_features):
            raise ValueError(f"BackboneTransformer takes sequences of shape {expected}, got {tuple(x.shape)}.")
        if x.shape[1] > self.max_length:
            raise ValueError(
                f"BackboneTransformer(max_length={self.max_length}) got sequences of length {x.shape[1]}. Cut them, or "
                f"raise max_length."
            )
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(
                f"BackboneTransformer takes a mask of shape (batch, length), here {tuple(x.shape[:2])}, got "
                f"{tuple(mask.shape)}."
            )
