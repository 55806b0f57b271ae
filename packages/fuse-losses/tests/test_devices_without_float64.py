"""Losses run where there is no float64: the meta device stands for one, on which any float64 tensor is an error."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fuse_losses import LossFocal, functional

NAMES = ["segmentation_cross_entropy", "focal_loss", "dice_loss", "tversky_loss", "generalized_dice_loss"]


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            assert not (isinstance(one, torch.Tensor) and one.is_meta and one.dtype == torch.float64), func
        return result


@pytest.fixture(autouse=True)
def meta_has_no_float64(monkeypatch):
    monkeypatch.setattr("fuse_losses._fused.device_rules._DEVICES_WITHOUT_FLOAT64", {"meta"})


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_a_dense_loss_makes_no_float64_there(name, activation, soft):
    loss = getattr(functional, name)
    target = torch.zeros(2, 3, 8) if soft else torch.zeros(2, 8, dtype=torch.long)
    logits = torch.zeros(2, 3, 8, device="meta", requires_grad=True)
    with NoFloat64():
        for options in ({}, {"class_weights": "ipw"}, {"class_weights": [1.0, 2.0, 0.5], "ignore_index": 255}):
            loss(logits, target.to("meta"), activation=activation, **options).backward()


def test_numbers_of_a_module_move_there_as_float32():
    loss = LossFocal(pred="pred", target="target", class_weights=[0.1, 0.2, 0.7], alpha=torch.ones(3, device="meta"))
    with NoFloat64():
        moved = loss.to("meta")
    assert moved.class_weights.dtype == moved.alpha.dtype == torch.float32
