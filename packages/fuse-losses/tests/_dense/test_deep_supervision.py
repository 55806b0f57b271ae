"""Every dense loss takes a list of predictions, the finest first."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import LossCompound, LossDice, functional

LOSSES = [
    functional.segmentation_cross_entropy,
    functional.focal_loss,
    functional.top_k_cross_entropy,
    functional.dice_loss,
    functional.tversky_loss,
    functional.generalized_dice_loss,
]


def pyramid():
    torch.manual_seed(0)
    return [torch.randn(2, 3, size, size, requires_grad=True) for size in (8, 4, 2)], torch.randint(3, (2, 8, 8))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("given", "weights"),
    [(None, [4 / 7, 2 / 7, 1 / 7]), ("halved_without_last", [2 / 3, 1 / 3, 0]), ([1.0, 0.0, 3.0], [0.25, 0, 0.75])],
)
def test_it_is_the_weighted_mean_of_the_losses_of_all_sizes(loss, given, weights):
    logits, target = pyramid()
    options = {} if given is None else {"deep_supervision_weights": given}
    value = loss(logits, target, resize_mode="nearest", **options)
    singles = [loss(one, target, resize_mode="nearest") for one in logits]
    assert_close(value, sum(weight * single for weight, single in zip(weights, singles, strict=True)))
    value.backward()
    assert [one.grad is not None for one in logits] == [weight > 0 for weight in weights]


def test_one_key_holds_the_list_and_terms_are_those_of_all_sizes():
    logits, target = pyramid()
    loss = LossCompound(pred="p", target="t", terms={"dice": 1.0, "cross_entropy": 1.0}, resize_mode="nearest")
    value = loss({"p": logits, "t": target})
    assert_close(value, loss.terms["dice"] + loss.terms["cross_entropy"])
    assert loss.counted == 2 * 8 * 8


def test_a_wrong_number_of_weights_is_an_error():
    logits, target = pyramid()
    loss = LossDice(pred="p", target="t", deep_supervision_weights=[1.0, 2.0], resize_mode="nearest")
    with pytest.raises(ValueError, match=r"LossDice\(pred='p', .*a deep_supervision_weight for each of the 3 pred"):
        loss({"p": logits, "t": target})
    with pytest.raises(ValueError, match="takes at least one prediction, got an empty list"):
        loss({"p": [], "t": target})


def test_a_list_of_targets_is_an_error_that_says_how_to_give_one():
    logits, target = pyramid()
    with pytest.raises(TypeError, match=r"^dice_loss takes one target for a list of predictions, got a list\."):
        functional.dice_loss(logits, [target, target[:, ::2, ::2], target[:, ::4, ::4]])


def test_losses_of_different_shapes_are_an_error():
    logits, target = pyramid()
    options = {"resize_mode": "nearest", "reduction": "none"}
    with pytest.raises(ValueError, match=r"cannot add losses of shapes \(2, 2, 2\) and \(2, 4, 4\): with reduction='n"):
        functional.segmentation_cross_entropy(logits, target, **options)
    assert functional.dice_loss(logits, target, **options).shape == (2, 3)
