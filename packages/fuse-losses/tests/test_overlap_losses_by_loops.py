"""Dice, Tversky and generalized Dice against loops, over all options in combination."""

import math

import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from references import overlap, probabilities, reduce_classes, truth_and_valid, tversky, weights_of
from torch.testing import assert_close

from fuse_losses.functional import dice_loss, generalized_dice_loss, tversky_loss

EMPTY = st.sampled_from(["skip", "zero", "penalize"])
SMOOTH = st.sampled_from([(0.0, 0.0), (1.0, 1.0), (0.0, 0.5)])


def parts(batch):
    options = batch.options
    p = probabilities(batch.logits, options["activation"])
    truth, valid = truth_and_valid(batch.target, batch.classes, options.get("ignore_index"), batch.mask)
    ignored = (0,) if options.get("include_background") is False else options["ignore_classes"]
    return p, truth, valid, weights_of(options["class_weights"], ignored, truth, valid)


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


@given(
    batch=dense_batches(),
    kind=st.sampled_from(["square", "simple", "uniform"]),
    empty=st.sampled_from(["skip", "penalize"]),
    per_sample=st.booleans(),
)
def test_generalized_dice_is_what_loops_compute(batch, kind, empty, per_sample):
    loss = generalized_dice_loss(
        batch.logits,
        batch.target,
        mask=batch.mask,
        volume_weights=kind,
        empty=empty,
        per_sample=per_sample,
        **batch.options,
    )
    p, truth, valid, weights = parts(batch)
    power = {"square": 2, "simple": 1, "uniform": 0}[kind]
    losses, count = [], 0
    for rows in overlap(p, truth, valid, whole_batch=not per_sample):
        volumes = [
            present**-power for (_, _, present, _), w in zip(rows, weights, strict=True) if present > 0 and w > 0
        ]
        rarest = max(volumes, default=1.0) if empty == "penalize" else 0.0
        u = [w * (row[2] ** -power if row[2] > 0 else rarest) for row, w in zip(rows, weights, strict=True)]
        if not any(u):
            losses.append(0.0)
            continue
        count += 1
        if volumes:
            numerator = 2 * sum(a * row[0] for a, row in zip(u, rows, strict=True))
            losses.append(1 - numerator / sum(a * (row[1] + row[2]) for a, row in zip(u, rows, strict=True)))
        else:
            voxels = rows[0][3]
            losses.append(
                sum(a * row[1] for a, row in zip(u, rows, strict=True)) / (sum(u) * voxels) if voxels else 0.0
            )
    expected = torch.tensor(losses, dtype=torch.float64)
    if batch.options["reduction"] == "mean":
        expected = expected.sum() / max(count, 1)
    elif batch.options["reduction"] == "sum":
        expected = expected.sum()
    elif not per_sample:
        expected = expected.squeeze(0)
    assert_close(loss, expected, rtol=1e-9, atol=1e-11)


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


def test_generalized_dice_penalizes_the_classes_where_none_is_present():
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    target = torch.zeros(1, 5, dtype=torch.long)
    loss = generalized_dice_loss(logits, target, include_background=False, empty="penalize")
    (grad,) = torch.autograd.grad(loss, logits)
    assert_close(loss, torch.tensor(1 / 3))
    assert (grad[0, 1:] > 0).all()
