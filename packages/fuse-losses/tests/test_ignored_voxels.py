"""Voxels that do not count may hold anything, NaN included."""

import pytest
import torch

from fuse_losses.functional import (
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    segmentation_cross_entropy,
    tversky_loss,
)

FUNCTIONS = [segmentation_cross_entropy, focal_loss, dice_loss, tversky_loss, generalized_dice_loss]
BAD = [float("nan"), float("inf"), float("-inf")]


def batch(activation, soft, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64).to(dtype)
    if activation == "none":
        logits = logits.softmax(1)
    target = torch.randint(3, (2, 6), generator=generator)
    if soft:
        target = torch.rand(2, 3, 6, generator=generator)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 2:4] = mask[1, 5] = False
    return logits, target, mask


def value_and_gradient(loss, logits, target, create_graph=False, **options):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target, **options)
    return value, torch.autograd.grad(value, logits, create_graph=create_graph)[0]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_nan_and_infinity_where_masked_change_nothing_and_get_a_gradient_of_zero(loss, activation, soft, bad):
    logits, target, mask = batch(activation, soft)
    options = {"activation": activation, "mask": mask, "class_weights": [1.0, 2.0, 0.5]}
    expected = value_and_gradient(loss, logits, target, **options)
    logits[:, 1] = torch.where(mask, logits[:, 1], bad)
    for create_graph in (False, True):
        value, grad = value_and_gradient(loss, logits, target, create_graph, **options)
        torch.testing.assert_close((value, grad), expected)
        assert (grad.movedim(1, -1)[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_nan_where_masked_gets_a_gradient_of_zero_in_half_precision(loss, dtype):
    logits, target, mask = batch("softmax", soft=False, dtype=dtype)
    logits[:, 1] = torch.where(mask, logits[:, 1], torch.nan)
    value, grad = value_and_gradient(loss, logits, target, mask=mask)
    assert value.isfinite()
    assert grad.isfinite().all()
    assert (grad.movedim(1, -1)[~mask] == 0).all()


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_nan_in_a_soft_target_where_masked_changes_nothing(activation, squared):
    logits, target, mask = batch(activation, soft=True)
    options = {"activation": activation, "mask": mask, "squared": squared}
    expected = value_and_gradient(dice_loss, logits, target, **options)
    target = torch.where(mask[:, None], target, torch.nan)
    torch.testing.assert_close(value_and_gradient(dice_loss, logits, target, **options), expected)
