"""A transformer over the tokens of visits, with PyTorch's encoder in place of fuse.dl's Transformer."""

import torch
from torch import Tensor, nn

from fuse_models import Head1D, ModelMultiHead


class FirstToken(nn.Module):
    """Attention after normalization, as in fuse.dl's Transformer; there queries, keys and values have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 7, 8))
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        options = {"activation": "gelu", "norm_first": True, "batch_first": True, "dropout": 0.0}
        layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        for one in self.encoder.layers:
            nn.init.zeros_(one.self_attn.in_proj_bias).requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.encoder(tokens + self.positions)[:, 0]

    def in_the_order_of_fusemedml(self) -> list[nn.Parameter]:
        ordered = [self.positions, self.first, *self.encoder.norm.parameters()]
        for layer in self.encoder.layers:
            attention = layer.self_attn
            ordered += [*layer.norm1.parameters(), attention.in_proj_weight, *attention.out_proj.parameters()]
            for part in (layer.norm2, layer.linear1, layer.linear2):
                ordered += part.parameters()
        return ordered


def test_sequences_give_the_numbers_of_fusemedml(expected, migration, tmp_path):
    backbone = FirstToken()
    head = Head1D(
        head_name="outcome",
        mode="classification",
        conv_inputs=[("model.backbone_features", 8)],
        layers_description=(6,),
        num_outputs=2,
        dropout_rate=0.0,
    )
    model = ModelMultiHead(backbone=backbone, heads=[head], backbone_args=["data.tokens"])
    migration.set_weights([*backbone.in_the_order_of_fusemedml(), *head.parameters()])
    batches = migration.loader(
        ["data.tokens", "data.label"], migration.images(12, 6, 8, classes=2), migration.labels(12, 2)
    )

    migration.check_classifier(expected, tmp_path, model, batches, "outcome", metric="auc", classes=2)
