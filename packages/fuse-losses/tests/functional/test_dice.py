"""Dice against loops, over all options in combination."""

import math

import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from overlap_references import EMPTY, SMOOTH, parts
from references import overlap, reduce_classes, tversky
from torch.testing import assert_close

from fuse_losses.functional import dice_loss


@given(
    batch=dense_batches(),
    squared=st.booleans(),
    jaccard=st.booleans(),
    log=st.booleans(),
    per_sample=st.booleans(),
    empty=EMPTY,
    smooth=SMOOTH,
)
def test_dice_is_what_loops_compute(batch, squared, jaccard, log, per_sample, empty, smooth):
    loss = dice_loss(
        batch.logits,
        batch.target,
        mask=batch.mask,
        squared=squared,
        jaccard=jaccard,
        log=log,
        per_sample=per_sample,
        empty=empty,
        smooth_numerator=smooth[0],
        smooth_denominator=smooth[1],
        **batch.options,
    )
    p, truth, valid, weights = parts(batch)
    table = overlap(p, truth, valid, power=2 if squared else 1, whole_batch=not per_sample)
    price = 1.0 if jaccard else 0.5
    epsilon = torch.finfo(torch.float64).eps
    loss_of_index = (lambda index: -math.log(max(index, epsilon))) if log else (lambda index: 1 - index)
    losses, counted = tversky(table, price, price, *smooth, empty, loss_of_index)
    expected = reduce_classes(losses, counted, weights, batch.options["reduction"])
    if batch.options["reduction"] == "none" and not per_sample:
        expected = expected.squeeze(0)
    assert_close(loss, expected, rtol=1e-9, atol=1e-11)


def test_dice_of_a_perfect_prediction_is_0_and_of_a_disjoint_one_1():
    target = torch.tensor([[0, 1, 1, 2]])
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).double()
    assert dice_loss(right, target, activation="none") == 0
    assert dice_loss(right.roll(1, dims=1), target, activation="none") == 1


def test_penalize_pulls_every_voxel_of_an_absent_class_down_alike():
    probabilities_ = torch.rand(1, 2, 50, requires_grad=True)
    target = torch.zeros(1, 50, dtype=torch.long)
    loss = dice_loss(probabilities_, target, activation="none", include_background=False, empty="penalize")
    (grad,) = torch.autograd.grad(loss, probabilities_)
    assert_close(grad[0, 1], torch.full((50,), 1 / 50))
    assert_close(loss, probabilities_[0, 1].mean())


def test_skip_leaves_an_absent_class_alone_and_zero_counts_it_as_perfect():
    probabilities_ = torch.tensor([[[0.8, 0.4], [0.1, 0.3], [0.1, 0.3]]])
    target = torch.tensor([[0, 1]])
    by_class = dice_loss(probabilities_, target, activation="none", reduction="none")
    assert by_class[0, 2] == 0
    skipped = dice_loss(probabilities_, target, activation="none")
    zero = dice_loss(probabilities_, target, activation="none", empty="zero")
    assert_close(skipped, by_class.sum() / 2)
    assert_close(zero, by_class.sum() / 3)
