"""Targets whose channels are unions of classes."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import LossDice, functional

POINTWISE = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]
OVERLAP = [functional.dice_loss, functional.tversky_loss, functional.generalized_dice_loss]


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
@pytest.mark.parametrize("ignore_index", [None, 3])
def test_regions_are_unions_of_classes(loss, ignore_index):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(4, (2, 5, 4))
    regions = [[1, 2, 3], [2, 3], [3]] if ignore_index is None else [[1, 2], [2], [1]]
    truth = torch.stack([torch.isin(target, torch.tensor(region)) for region in regions], 1)
    mask = None if ignore_index is None else target != ignore_index
    value = loss(logits, target, activation="sigmoid", regions=regions, ignore_index=ignore_index)
    assert_close(value, loss(logits, truth, activation="sigmoid", mask=mask))


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_regions_of_probabilities_are_those_of_their_logits(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(4, (2, 5, 4))
    regions = [[1, 2, 3], [2, 3], [3]]
    value = loss(logits.sigmoid(), target, activation="none", regions=regions)
    assert_close(value, loss(logits, target, activation="sigmoid", regions=regions))


def test_a_negative_class_with_regions_is_an_error_unless_it_does_not_count():
    logits, target = torch.randn(1, 2, 4), torch.tensor([[0, 1, 2, -1]])
    options = {"activation": "sigmoid", "regions": [[1, 2], [2]]}
    with pytest.raises(ValueError, match="dice_loss with regions takes class indices from 0, got -1"):
        functional.dice_loss(logits, target, **options)
    ignored = functional.dice_loss(logits, target, ignore_index=-1, **options)
    assert_close(functional.dice_loss(logits, target, mask=target >= 0, **options), ignored)
    assert_close(functional.dice_loss(logits, target, mask=(target >= 0)[:, None].expand(1, 2, 4), **options), ignored)


def test_regions_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"regions=\) overlap, so they need activation='sigmoid', got 'softmax'"):
        LossDice(pred="a", target="b", regions=[[1], [2]])
    with pytest.raises(ValueError, match="got 2 regions for a prediction of 3 channels"):
        functional.dice_loss(torch.zeros(1, 3, 4), torch.zeros(1, 4).long(), activation="sigmoid", regions=[[1], [2]])
    with pytest.raises(ValueError, match=r"regions=\) takes at least one class index for each channel"):
        LossDice(pred="a", target="b", regions=[[]], activation="sigmoid")


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_a_region_of_a_class_that_the_targets_type_cannot_hold_is_empty(activation):
    logits, target = torch.rand(1, 2, 4), torch.tensor([[44, 0, 44, 1]], dtype=torch.uint8)  # 300 - 256 is 44
    options = {"activation": activation, "regions": [[300], [1]], "empty": "penalize"}
    assert_close(
        functional.dice_loss(logits, target, **options), functional.dice_loss(logits, target.long(), **options)
    )
