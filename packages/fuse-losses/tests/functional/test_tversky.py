"""Tversky against loops, over all options in combination."""

import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from overlap_references import EMPTY, SMOOTH, parts
from references import overlap, reduce_classes, tversky
from torch.testing import assert_close

from fuse_losses.functional import dice_loss, tversky_loss


@given(
    batch=dense_batches(),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    beta=st.sampled_from([0.2, 0.7]),
    gamma=st.sampled_from([0.75, 1.0, 2.0]),
    per_sample=st.booleans(),
    empty=EMPTY,
    smooth=SMOOTH,
)
def test_tversky_is_what_loops_compute(batch, alpha, beta, gamma, per_sample, empty, smooth):
    loss = tversky_loss(
        batch.logits,
        batch.target,
        mask=batch.mask,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        per_sample=per_sample,
        empty=empty,
        smooth_numerator=smooth[0],
        smooth_denominator=smooth[1],
        **batch.options,
    )
    p, truth, valid, weights = parts(batch)
    table = overlap(p, truth, valid, whole_batch=not per_sample)

    def power(index):  # a smoothed index may exceed 1 a little
        base = 1 - index
        return base**gamma if base > 0 else base * torch.finfo(torch.float64).eps ** (gamma - 1)

    losses, counted = tversky(table, alpha, beta, *smooth, empty, power)
    expected = reduce_classes(losses, counted, weights, batch.options["reduction"])
    if batch.options["reduction"] == "none" and not per_sample:
        expected = expected.squeeze(0)
    assert_close(loss, expected, rtol=1e-9, atol=1e-9)


@given(batch=dense_batches(), empty=EMPTY, smooth=SMOOTH, per_sample=st.booleans())
def test_tversky_with_equal_prices_of_a_half_is_dice_to_the_bit(batch, empty, smooth, per_sample):
    options = dict(
        mask=batch.mask,
        empty=empty,
        smooth_numerator=smooth[0],
        smooth_denominator=smooth[1],
        per_sample=per_sample,
        **batch.options,
    )
    assert torch.equal(
        tversky_loss(batch.logits, batch.target, **options), dice_loss(batch.logits, batch.target, **options)
    )
