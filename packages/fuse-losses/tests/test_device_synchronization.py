"""No dense loss waits for a device: the meta device has no values to wait for, and copies to it can be seen."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fuse_losses.functional import (
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    segmentation_cross_entropy,
    tversky_loss,
)

FUNCTIONS = [segmentation_cross_entropy, focal_loss, dice_loss, tversky_loss, generalized_dice_loss]


class NoTransfers(TorchDispatchMode):
    """Fails where an operation turns a tensor of the CPU into one of another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {one.device.type for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)}
        assert len(devices) < 2, f"{func} goes from one device to another"
        return result


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_a_dense_loss_runs_without_values_and_copies_none_to_the_device(loss, activation):
    logits = torch.zeros(2, 3, 8, 8, device="meta", requires_grad=True)
    target = torch.zeros(2, 8, 8, dtype=torch.long, device="meta")
    with NoTransfers():
        for weights in ([1.0, 2.0, 0.5], "ipw"):
            options = {"class_weights": weights, "ignore_index": 255, "ignore_classes": [1], "activation": activation}
            loss(logits, target, **options).backward()
    assert logits.grad.shape == logits.shape


def test_the_alphas_of_the_classes_are_not_copied_to_the_device():
    logits = torch.zeros(2, 3, device="meta", requires_grad=True)
    with NoTransfers():
        focal_loss(logits, torch.zeros(2, dtype=torch.long, device="meta"), alpha=[0.1, 0.2, 0.3]).backward()


def test_a_transfer_is_noticed():
    with pytest.raises(AssertionError, match="from one device to another"), NoTransfers():
        torch.zeros(2).to("meta")
