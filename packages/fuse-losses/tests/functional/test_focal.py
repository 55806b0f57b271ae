"""Focal loss against loops, over all options in combination."""

import pytest
import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from pointwise_references import expected
from torch.testing import assert_close

from fuse_losses.functional import focal_loss, segmentation_cross_entropy


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


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("target", [torch.tensor([0]), torch.tensor([[1.0, 0.0, 0.0]])])
def test_a_class_ruled_out_by_a_logit_of_minus_infinity_costs_nothing(gamma, create_graph, target):
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = focal_loss(logits, target, gamma=gamma)
    (grad,) = torch.autograd.grad(loss, logits, create_graph=create_graph)
    without = logits.detach()[:, :2].requires_grad_()
    expected_loss = focal_loss(without, torch.tensor([0]), gamma=gamma)
    assert_close(loss, expected_loss)
    assert_close(grad, torch.nn.functional.pad(torch.autograd.grad(expected_loss, without)[0], (0, 1)))
