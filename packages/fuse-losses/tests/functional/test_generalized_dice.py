"""Generalized Dice against loops, over all options in combination."""

import torch
from dense_batches import dense_batches
from hypothesis import given
from hypothesis import strategies as st
from overlap_references import parts
from references import overlap
from torch.testing import assert_close

from fuse_losses.functional import generalized_dice_loss


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
        if not any(u) or rows[0][3] == 0:
            losses.append(0.0)
            continue
        count += 1
        if volumes:
            numerator = 2 * sum(a * row[0] for a, row in zip(u, rows, strict=True))
            losses.append(1 - numerator / sum(a * (row[1] + row[2]) for a, row in zip(u, rows, strict=True)))
        else:
            losses.append(sum(a * row[1] for a, row in zip(u, rows, strict=True)) / (sum(u) * rows[0][3]))
    expected = torch.tensor(losses, dtype=torch.float64)
    if batch.options["reduction"] == "mean":
        expected = expected.sum() / max(count, 1)
    elif batch.options["reduction"] == "sum":
        expected = expected.sum()
    elif not per_sample:
        expected = expected.squeeze(0)
    assert_close(loss, expected, rtol=1e-9, atol=1e-11)


def test_generalized_dice_penalizes_the_classes_where_none_is_present():
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    target = torch.zeros(1, 5, dtype=torch.long)
    loss = generalized_dice_loss(logits, target, include_background=False, empty="penalize")
    (grad,) = torch.autograd.grad(loss, logits)
    assert_close(loss, torch.tensor(1 / 3))
    assert (grad[0, 1:] > 0).all()
