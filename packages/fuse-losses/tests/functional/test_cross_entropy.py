"""Cross-entropy against loops and torch."""

import pytest
import torch
from dense_batches import dense_batches
from hypothesis import given
from pointwise_references import expected
from torch.testing import assert_close

from fuse_losses.functional import segmentation_cross_entropy


@given(batch=dense_batches())
def test_cross_entropy_is_what_loops_compute(batch):
    loss = segmentation_cross_entropy(batch.logits, batch.target, mask=batch.mask, **batch.options)
    assert_close(loss, expected(batch, 0.0, None), rtol=1e-10, atol=1e-12)


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


def test_a_probability_of_0_for_the_target_costs_minus_log_epsilon():
    loss = segmentation_cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), activation="none")
    assert_close(loss, -torch.tensor(torch.finfo(torch.float32).eps).log())
