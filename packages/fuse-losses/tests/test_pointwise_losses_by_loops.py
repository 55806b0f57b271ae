"""Cross-entropy and focal loss against loops, over all options in combination."""

import pytest
import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from references import focal, probabilities, reduce_voxels, truth_and_valid, weights_of
from torch.testing import assert_close

from fuse_losses.functional import focal_loss, segmentation_cross_entropy


def expected(batch, gamma, alpha):
    options = batch.options
    binary = options["activation"] == "sigmoid"
    p = probabilities(batch.logits, options["activation"])
    truth, valid = truth_and_valid(batch.target, batch.classes, options.get("ignore_index"), batch.mask)
    ignored = (0,) if options.get("include_background") is False else options["ignore_classes"]
    weights = weights_of(options["class_weights"], ignored, truth, valid)
    losses, divisor = focal(p, truth, valid, weights, gamma, alpha, binary)
    shape = batch.logits.shape if binary else (len(batch.logits), *batch.spatial)
    return reduce_voxels(losses, divisor, options["reduction"], shape)


@given(batch=dense_batches())
def test_cross_entropy_is_what_loops_compute(batch):
    loss = segmentation_cross_entropy(batch.logits, batch.target, mask=batch.mask, **batch.options)
    assert_close(loss, expected(batch, 0.0, None), rtol=1e-10, atol=1e-12)


@given(
    batch=dense_batches(),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3]),
    alpha=st.sampled_from([None, 0.25, [0.1, 0.9, 0.4, 0.6]]),
)
def test_focal_loss_is_what_loops_compute(batch, gamma, alpha):
    alphas = alpha[: batch.classes] if isinstance(alpha, list) else alpha
    loss = focal_loss(batch.logits, batch.target, gamma=gamma, alpha=alphas, mask=batch.mask, **batch.options)
    by_class = [alpha] * batch.classes if isinstance(alpha, float) else alphas
    assert_close(loss, expected(batch, gamma, by_class), rtol=1e-10, atol=1e-12)


@given(batch=dense_batches())
def test_focal_loss_of_gamma_0_is_cross_entropy_to_the_bit(batch):
    focal_value = focal_loss(batch.logits, batch.target, gamma=0, mask=batch.mask, **batch.options)
    assert torch.equal(
        focal_value, segmentation_cross_entropy(batch.logits, batch.target, mask=batch.mask, **batch.options)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spatial", [(), (7,), (5, 6), (3, 4, 5)])
def test_cross_entropy_and_its_gradient_are_those_of_torch(reduction, spatial):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, *spatial, requires_grad=True)
    target = torch.randint(5, (3, *spatial))
    target.view(-1)[0] = 255
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])
    ours = segmentation_cross_entropy(logits, target, class_weights=weights, ignore_index=255, reduction=reduction)
    theirs = torch.nn.functional.cross_entropy(logits, target, weights, ignore_index=255, reduction=reduction)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    direction = torch.rand_like(ours)
    assert_close(
        torch.autograd.grad(ours, logits, direction),
        torch.autograd.grad(theirs, logits, direction),
        rtol=1e-5,
        atol=1e-8,
    )


def test_cross_entropy_with_soft_targets_is_that_of_torch():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 5, 4), torch.rand(3, 5, 4).softmax(1)
    assert_close(segmentation_cross_entropy(logits, target), torch.nn.functional.cross_entropy(logits, target))


def test_cross_entropy_of_sigmoids_is_torchs_binary_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 5, 4), torch.rand(3, 5, 4)
    ours = segmentation_cross_entropy(logits, target, activation="sigmoid")
    assert_close(ours, torch.nn.functional.binary_cross_entropy_with_logits(logits, target))


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 6)])
def test_a_single_channel_takes_a_binary_target_with_or_without_a_channel(activation, shape):
    torch.manual_seed(0)
    probabilities_ = torch.rand(2, 1, 6)
    target = torch.randint(2, shape)
    pred = probabilities_.logit() if activation == "sigmoid" else probabilities_
    loss = segmentation_cross_entropy(pred, target, activation=activation)
    reference = torch.nn.functional.binary_cross_entropy(probabilities_, target.reshape(2, 1, 6).float())
    assert_close(loss, reference)


def test_a_probability_of_0_where_the_target_is_1_costs_minus_the_logarithm_of_epsilon():
    loss = segmentation_cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), activation="none")
    assert_close(loss, -torch.tensor(torch.finfo(torch.float32).eps).log())


@given(gamma=st.floats(0, 5), value=st.floats(-1e4, 1e4))
def test_focal_loss_has_a_finite_gradient_for_every_gamma_and_logit(gamma, value):
    logits = torch.tensor([[value, 0.0], [0.0, value]], requires_grad=True)
    for activation in ("softmax", "sigmoid"):
        loss = focal_loss(logits, torch.tensor([0, 0]), gamma=gamma, activation=activation)
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_is_finite_where_the_loss_itself_exceeds_its_type(gamma):
    logits = torch.tensor([[3e38, -3e38], [-3e38, 3e38]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1, 0]), gamma=gamma, reduction="sum")
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss == torch.inf
    assert_close(grad, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
