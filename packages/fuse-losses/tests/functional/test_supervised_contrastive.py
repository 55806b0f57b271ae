import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fuse_losses import LossSupervisedContrastive
from fuse_losses.functional import supervised_contrastive_loss


def by_loops(feat_i, feat_j, target_i, target_j, temperature, exclude_itself):
    unit = [
        [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in feat.tolist()] for feat in (feat_i, feat_j)
    ]
    losses = []
    for i, anchor in enumerate(unit[0]):
        others = [j for j in range(len(unit[1])) if not (exclude_itself and i == j)]
        similar = {j: sum(a * b for a, b in zip(anchor, unit[1][j], strict=True)) / temperature for j in others}
        positives = [j for j in others if target_i[i] == target_j[j]]
        if positives:
            log_sum = math.log(sum(math.exp(one) for one in similar.values()))
            losses.append(-sum(similar[j] - log_sum for j in positives) / len(positives))
    return torch.tensor(sum(losses) / len(losses) if losses else 0.0, dtype=torch.float64)


@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    temperature=st.sampled_from([0.1, 1.0]),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 100),
)
def test_it_is_what_loops_compute(sizes, temperature, alpha, seed):
    generator = torch.Generator().manual_seed(seed)
    feat_i, feat_j = (torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes)
    target_i, target_j = (torch.randint(3, (size,), generator=generator) for size in sizes)
    forth = by_loops(feat_i, feat_j, target_i, target_j, temperature, exclude_itself=False)
    back = by_loops(feat_j, feat_i, target_j, target_i, temperature, exclude_itself=False)
    arguments = (feat_i, feat_j, target_i, target_j)
    assert_close(supervised_contrastive_loss(*arguments, temperature=temperature), forth)
    both = supervised_contrastive_loss(*arguments, temperature=temperature, symmetrical=True, alpha=alpha)
    assert_close(both, alpha * forth + (1 - alpha) * back)
    within = supervised_contrastive_loss(feat_i, target_i=target_i, temperature=temperature)
    assert_close(within, by_loops(feat_i, feat_i, target_i, target_i, temperature, exclude_itself=True))


def test_without_targets_each_row_belongs_to_its_own():
    torch.manual_seed(0)
    feat_i, feat_j = torch.randn(2, 4, 3)
    rows = torch.arange(4)
    assert torch.equal(supervised_contrastive_loss(feat_i, feat_j), supervised_contrastive_loss(feat_i, feat_j, rows))


def test_the_gradient_is_that_of_the_formula():
    torch.manual_seed(0)
    feats = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    target = torch.tensor([0, 1, 0, 2])

    def loss(feat_i, feat_j):
        return supervised_contrastive_loss(feat_i, feat_j, target, symmetrical=True, alpha=0.3)

    assert torch.autograd.gradcheck(loss, feats)
    assert torch.autograd.gradcheck(lambda feat: supervised_contrastive_loss(feat, target_i=target), feats[:1])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_it_is_finite_for_features_of_any_size(scale, temperature):
    torch.manual_seed(0)
    feat = (scale * torch.randn(4, 3)).requires_grad_()
    value = supervised_contrastive_loss(feat, target_i=torch.tensor([0, 0, 1, 2]), temperature=temperature)
    (grad,) = torch.autograd.grad(value, feat)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_a_positive_pair_it_is_a_zero_that_is_part_of_the_graph(count):
    feat = torch.randn(count, 3, requires_grad=True)
    value = supervised_contrastive_loss(feat, target_i=torch.arange(count))
    (grad,) = torch.autograd.grad(value, feat)
    assert value == 0
    assert (grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    torch.manual_seed(0)
    feat, target = torch.randn(6, 5).to(dtype), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = supervised_contrastive_loss(feat.float(), target_i=target)
    assert torch.equal(supervised_contrastive_loss(feat, target_i=target), expected)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(supervised_contrastive_loss(feat.float(), target_i=target), expected)


def test_one_graph_compiles():
    torch.manual_seed(0)
    feat, target = torch.randn(6, 5), torch.tensor([0, 0, 1, 1, 2, 2])
    torch.compiler.reset()
    compiled = torch.compile(supervised_contrastive_loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(feat, target_i=target), supervised_contrastive_loss(feat, target_i=target))


def test_the_module_reads_its_keys():
    torch.manual_seed(0)
    batch = {"i": torch.randn(4, 3), "j": torch.randn(3, 3), "ti": torch.tensor([0, 1, 1, 0]), "tj": torch.arange(3)}
    loss = LossSupervisedContrastive(
        feat_i="i", feat_j="j", target_i="ti", target_j="tj", temperature=0.5, symmetrical=True, alpha=0.3, weight=2.0
    )
    expected = supervised_contrastive_loss(*batch.values(), temperature=0.5, symmetrical=True, alpha=0.3)
    assert torch.equal(loss(batch), 2 * expected)
    assert loss.reads == ("i", "j", "ti", "tj")


F, T = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"feat_i": F}, ValueError, "needs feat_j, target_i or both, got neither"),
        ({"feat_i": F, "target_i": T, "target_j": T}, ValueError, "got target_j without feat_j"),
        ({"feat_i": F, "feat_j": F, "target_j": T}, ValueError, "got target_j without target_i"),
        ({"feat_i": F, "feat_j": F[:1]}, ValueError, "pairs the rows of feat_i and feat_j, got 2 and 1"),
        ({"feat_i": F, "feat_j": F[:, :2]}, ValueError, "features of one length, got 3 and 2"),
        ({"feat_i": F[0], "target_i": T}, ValueError, r"takes feat_i \[B, D\], got shape \(3,\)"),
        ({"feat_i": F.long(), "target_i": T}, TypeError, "floating-point feat_i, got torch.int64"),
        ({"feat_i": F, "target_i": T[:1]}, ValueError, r"takes target_i \[2\], .* got shape \(1,\)"),
        ({"feat_i": F, "target_i": T, "temperature": 0}, ValueError, r"temperature=\) is above 0, got 0"),
        ({"feat_i": F, "target_i": T, "alpha": 1.5}, ValueError, r"alpha=\) .* at most 1, got 1.5"),
        ({"feat_i": F, "target_i": T, "symmetrical": 1}, TypeError, r"symmetrical=\) takes True or False, got 1"),
        ({"feat_i": F, "target_i": T, "symmetrical": True}, ValueError, r"=True\) exchanges feat_i and feat_j, got no"),
        ({"feat_i": F, "feat_j": F, "alpha": 0.3}, ValueError, r"alpha=\) .* got 0.3 without symmetrical=True"),
    ],
)
def test_a_bad_argument_is_an_error(arguments, error, message):
    with pytest.raises(error, match=f"supervised_contrastive_loss.*{message}"):
        supervised_contrastive_loss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "LossSupervisedContrastive needs feat_j, target_i or both, got neither"),
        ({"feat_j": "j", "target_j": "t"}, "got target_j='t', which goes with feat_j and target_i"),
        ({"target_i": "t", "alpha": 0.3}, r"LossSupervisedContrastive\(alpha=\) .* got 0.3 without symmetrical=True"),
        ({"target_i": "t", "temperature": 0}, r"LossSupervisedContrastive\(temperature=\) is above 0, got 0"),
    ],
)
def test_keys_that_do_not_go_together_are_an_error_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        LossSupervisedContrastive(feat_i="i", **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_of_zeros_has_a_finite_gradient(dtype):
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    features[0] = 0
    features.requires_grad_()
    supervised_contrastive_loss(features, target_i=torch.tensor([0, 0, 1, 1])).backward()
    assert features.grad.abs().max() < 100


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"i": [F[0], F[1]], "t": T}, "takes a tensor as feat_i, got list. Convert it with torch.as_tensor, a list of"),
        ({"i": F.numpy(), "t": T}, "takes a tensor as feat_i, got ndarray. Convert it with torch.as_tensor"),
        ({"i": F, "t": [0, 1]}, "takes a tensor as target_i, got list. Convert it with torch.as_tensor"),
    ],
)
def test_what_is_no_tensor_is_an_error_that_names_the_class_and_its_keys(batch, message):
    loss = LossSupervisedContrastive(feat_i="i", target_i="t")
    with pytest.raises(TypeError, match=rf"LossSupervisedContrastive\(feat_i='i', target_i='t'\) {message}"):
        loss(batch)
