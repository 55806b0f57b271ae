"""Dice and its relatives with soft targets."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import functional


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
@pytest.mark.parametrize(
    "options", [{}, {"jaccard": True}, {"squared": True}, {"alpha": 0.3, "beta": 0.7}, {"volume_weights": "square"}]
)
def test_an_overlap_loss_is_0_at_a_soft_target_and_has_its_minimum_there(activation, options):
    loss = functional.dice_loss
    if "alpha" in options:
        loss = functional.tversky_loss
    elif "volume_weights" in options:
        loss = functional.generalized_dice_loss
    torch.manual_seed(0)
    y = 0.1 + 0.8 * torch.rand(2, 3, 8, dtype=torch.float64)
    at = y.logit() if activation == "sigmoid" else y
    assert_close(loss(at, y, activation=activation, **options), torch.tensor(0.0, dtype=torch.float64))
    for _ in range(20):
        near = at + 0.05 * torch.randn_like(at)
        assert loss(near, y, activation=activation, **options) > 0


def test_a_compound_loss_of_dice_is_0_at_a_soft_target_after_resizing_by_area():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 0, 0] = 1
    target[0, 2:, 2:] = 1
    soft = functional.resize_target(target, [2, 2], "area", num_classes=2)
    value = functional.compound_loss(soft, target, {"dice": 1.0}, activation="none", resize_mode="area")
    assert_close(value, torch.tensor(0.0))
