import pytest
import torch

from fuse_models import BackboneTransformer, Head1D, ModelMultiHead


def tokens_and_mask():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    return torch.randint(10, (3, 6), generator=generator), mask


def transformer(pool="class", vectors=False, **options):
    torch.manual_seed(0)
    inputs = {"in_features": 5} if vectors else {"num_tokens": 10}
    return BackboneTransformer(**inputs, embed_dim=16, depth=2, num_heads=4, max_length=8, pool=pool, **options).eval()


@pytest.mark.parametrize("pool", ["class", "avg", None])
@pytest.mark.parametrize("vectors", [False, True])
def test_it_gives_features_of_sequences_or_of_positions(pool, vectors):
    x, mask = tokens_and_mask()
    x = torch.randn(3, 6, 5) if vectors else x
    shape = (3, 16) if pool else (3, 16, 6)
    assert transformer(pool, vectors)(x, mask).shape == shape
    assert transformer(pool, vectors)(x).shape == shape


@pytest.mark.parametrize("pool", ["class", "avg", None])
def test_what_stands_at_padding_does_not_matter(pool):
    x, mask = tokens_and_mask()
    backbone = transformer(pool)
    changed = torch.where(mask, x, (x + 1) % 10)
    torch.testing.assert_close(backbone(x, mask), backbone(changed, mask))
    cut = backbone(x[1:2, :4])  # a sequence gives the same with padding and without
    padded = backbone(x, mask)[1:2]
    torch.testing.assert_close(padded if pool else padded[..., :4], cut)
    if pool is None:
        assert padded[..., 4:].abs().sum() == 0


@pytest.mark.parametrize("pool", ["class", "avg", None])
def test_a_sequence_of_padding_alone_is_finite(pool):
    x, _ = tokens_and_mask()
    result = transformer(pool).train()(x, torch.zeros(3, 6, dtype=torch.bool))
    result.sum().backward()
    assert result.isfinite().all()


def test_it_learns_which_token_comes_first():
    backbone = transformer().train()
    head = Head1D("cls", conv_inputs=[("model.backbone_features", 16)], num_outputs=10, dropout_rate=0.0)
    model = ModelMultiHead(backbone, [head], backbone_args=["data.tokens", "data.mask"])
    x, mask = torch.randint(10, (32, 6)), torch.ones(32, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        logits = model({"data.tokens": x, "data.mask": mask})["model.logits.cls"]
        loss = torch.nn.functional.cross_entropy(logits, x[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    unused = {"pos_embed"}  # positions beyond the sequences have no gradient
    for name, parameter in backbone.named_parameters():
        assert parameter.grad.abs().sum() > 0 or name in unused, name


@pytest.mark.parametrize("given", [{}, {"num_tokens": 3, "in_features": 3}])
def test_sequences_are_of_tokens_or_of_vectors(given):
    with pytest.raises(ValueError, match=r"takes either num_tokens, for indices, or in_features, for vectors"):
        BackboneTransformer(**given)


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(2, 9, dtype=torch.long), None, r"max_length=8\) got sequences of length 9"),
        (torch.zeros(2, 3, 5, dtype=torch.long), None, r"shape \(batch, length\), got \(2, 3, 5\)"),
        (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4), r"mask of shape .* \(2, 3\), got \(2, 4\)"),
    ],
)
def test_wrong_sequences_are_named(x, mask, message):
    with pytest.raises(ValueError, match=f"BackboneTransformer.*{message}"):
        transformer()(x, mask)
    with pytest.raises(ValueError, match=r"shape \(batch, length, 5\), got \(2, 3, 4\)"):
        transformer(vectors=True)(torch.zeros(2, 3, 4))
