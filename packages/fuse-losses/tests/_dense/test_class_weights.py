import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fuse_losses import functional
from fuse_losses.functional import inverse_proportion_weights, segmentation_cross_entropy

LOSSES = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]
LOSSES += [functional.dice_loss, functional.tversky_loss, functional.generalized_dice_loss]


@given(indices=st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_every_class_that_occurs_weighs_the_same_in_total(indices):
    target = torch.tensor([indices])
    weights = inverse_proportion_weights(target, 5)
    totals = weights * torch.bincount(target[0], minlength=5)
    occurring = len(set(indices))
    for c in range(5):
        expected = len(indices) / occurring if c in indices else 0.0
        assert_close(totals[c], torch.tensor(expected))


def test_voxels_that_are_not_valid_or_no_class_do_not_count():
    target = torch.tensor([[0, 0, 1, 1, 255, -1]])
    valid = torch.tensor([[True, True, True, False, True, True]])
    assert_close(inverse_proportion_weights(target, 2, valid), torch.tensor([0.75, 1.5]))
    assert_close(inverse_proportion_weights(target, 2, valid.float()), torch.tensor([0.75, 1.5]))


def test_probabilities_count_with_their_sums():
    target = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]], dtype=torch.float64)
    assert_close(inverse_proportion_weights(target, 2), torch.tensor([2 / 3, 2.0], dtype=torch.float64))
    valid = torch.tensor([[True, False]])
    assert_close(inverse_proportion_weights(target, 2, valid), torch.tensor([1.0, 1.0], dtype=torch.float64))


def test_probabilities_of_a_classification_count():
    assert_close(inverse_proportion_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 2), torch.tensor([1.0, 0.0]))


def test_without_voxels_all_weights_are_0():
    assert torch.equal(inverse_proportion_weights(torch.zeros(0, dtype=torch.long), 3), torch.zeros(3))


def test_ipw_gives_the_weights_of_the_batch():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 50), torch.randint(3, (2, 50))
    weights = inverse_proportion_weights(target, 3)
    for reduction in ("mean", "sum", "none"):
        ours = segmentation_cross_entropy(logits, target, class_weights="ipw", reduction=reduction)
        assert_close(ours, torch.nn.functional.cross_entropy(logits, target, weights, reduction=reduction))


def test_probabilities_of_another_number_of_classes_are_an_error():
    with pytest.raises(ValueError, match=r"takes probabilities \[B, 3, ...\] .* of shape \(1, 2, 4\)"):
        inverse_proportion_weights(torch.zeros(1, 2, 4), 3)


def test_a_target_that_is_no_tensor_is_an_error():
    with pytest.raises(TypeError, match=r"takes a tensor as target, got ndarray\. Convert it with torch\.as_tensor"):
        inverse_proportion_weights(torch.zeros(1, 4).numpy(), 3)


@pytest.mark.parametrize("class_weights", [[100.0], "ipw"])
@pytest.mark.parametrize("loss", LOSSES)
def test_class_weights_of_a_single_channel_are_an_error_that_says_pos_weight(loss, class_weights):
    with pytest.raises(ValueError, match=r"class_weights for a single channel.* use pos_weight"):
        loss(torch.zeros(2, 1, 4), torch.zeros(2, 4).long(), activation="sigmoid", class_weights=class_weights)
