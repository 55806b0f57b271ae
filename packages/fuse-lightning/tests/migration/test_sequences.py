"""A transformer over the tokens of visits, with PyTorch's encoder in place of fuse.dl's Transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import multiclass_auroc

from fuse_lightning import MetricDefault
from fuse_losses import LossDefault
from fuse_models import Head1D, ModelMultiHead

OUTPUT = "model.output.outcome"


class FirstToken(nn.Module):
    """Attention after normalisation, as in fuse.dl's Transformer; there queries, keys and values have no bias."""

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
    losses = {"cls_loss": LossDefault(pred="model.logits.outcome", target="data.label", callable=F.cross_entropy)}
    metrics = {"auc": MetricDefault(pred=OUTPUT, target="data.label", metric=MulticlassAUROC(2))}
    monitor = {"monitor": "validation.metrics.auc", "mode": "max"}

    logged, table = migration.train_and_predict(tmp_path, model, losses, metrics, batches, OUTPUT, monitor)

    for name in ("train.losses.cls_loss", "validation.losses.total_loss"):
        assert logged[name] == pytest.approx(expected["logged"][name], abs=1e-5)
    for mode in ("train", "validation"):
        there = expected["logged"][f"{mode}.metrics.auc.macro_avg"]
        assert logged[f"{mode}.metrics.auc"] == pytest.approx(there, abs=1e-6)
    probabilities = torch.tensor(table.filter(like=OUTPUT).to_numpy())
    assert probabilities[0].tolist() == pytest.approx(expected["predicted"], abs=1e-5)
    auc = multiclass_auroc(probabilities, torch.tensor(table["data.label"].to_numpy()), 2)
    assert auc.item() == pytest.approx(expected["evaluated"]["metrics.auc.macro_avg"], abs=1e-6)
