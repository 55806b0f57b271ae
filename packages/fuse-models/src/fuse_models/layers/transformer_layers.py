"""The layers of transformer encoders, named as in timm's state dicts."""

from collections import OrderedDict
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention. Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, equation 1."""

    def __init__(self, embed_dim: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(batch, tokens, embed_dim)` to the same; `mask`, `(batch, 1, 1, tokens)`, is False at tokens to ignore."""
        batch, tokens, size = x.shape
        heads = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, size // self.num_heads)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        dropout_rate = self.dropout_rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout_rate)
        return cast(Tensor, self.dropout(self.proj(mixed.transpose(1, 2).reshape(batch, tokens, size))))


def transformer_mlp(embed_dim: int, hidden: int, dropout_rate: float) -> nn.Sequential:
    """Two layers for each token by itself: `fc1`, GELU, `fc2`."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(embed_dim, hidden),
            act=nn.GELU(),
            drop1=nn.Dropout(dropout_rate),
            fc2=nn.Linear(hidden, embed_dim),
            drop2=nn.Dropout(dropout_rate),
        )
    )


class TransformerBlock(nn.Module):
    """`x + attention(norm1(x))`, then `x + mlp(norm2(x))` ("pre-norm"). The arguments are those of `BackboneViT`."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float = 4.0, dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads, dropout_rate)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = transformer_mlp(embed_dim, int(embed_dim * mlp_ratio), dropout_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(batch, tokens, embed_dim)` to the same; see `Attention` for the mask."""
        x = x + self.attn(self.norm1(x), mask)
        return cast(Tensor, x + self.mlp(self.norm2(x)))


def initialise(network: nn.Module) -> None:
    """Linear layers from a normal distribution of deviation 0.02, biases 0, as in ViT and BERT."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
