"""Classes that were not annotated in a sample."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import functional

POINTWISE = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]
OVERLAP = [functional.dice_loss, functional.tversky_loss, functional.generalized_dice_loss]


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_a_class_that_was_not_annotated_in_a_sample_does_not_count_there(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4, 4, requires_grad=True), torch.randint(2, (2, 2, 4, 4))
    annotated = torch.tensor([[True, False], [False, True]])
    value = loss(logits, target, activation="sigmoid", annotated=annotated)
    mask = annotated[:, :, None, None].expand(2, 2, 4, 4)
    assert_close(value, loss(logits, target, activation="sigmoid", mask=mask))
    (grad,) = torch.autograd.grad(value, logits)
    assert ((grad != 0).any(-1).any(-1) == annotated).all()


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_classes_not_annotated_are_merged_into_the_background(loss):
    """By hand: add their probabilities to the background's, and drop their channels."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randint(2, (2, 6))
    annotated = torch.tensor([[True, True, False, False]] * 2)
    value = loss(logits, target, annotated=annotated, merge_unannotated=True)
    p = logits.softmax(1)
    merged = torch.stack([p[:, 0] + p[:, 2] + p[:, 3], p[:, 1]], 1)
    assert_close(value, loss(merged.log(), target))
    other = torch.where(target == 0, 3, target)  # the label of a class that was not annotated is background
    assert_close(loss(logits, other, annotated=annotated, merge_unannotated=True), value)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, annotated=annotated, merge_unannotated=True), logits)


@pytest.mark.parametrize(("dtype", "classes"), [(torch.uint8, 256), (torch.int8, 130)])
def test_classes_are_merged_where_their_number_exceeds_the_targets_type(dtype, classes):
    logits, target = torch.zeros(1, classes, 4), torch.tensor([[5, 6, 7, 8]])
    options = {"annotated": torch.arange(classes)[None] != 5, "merge_unannotated": True}
    value = functional.segmentation_cross_entropy(logits, target.to(dtype), **options)
    assert_close(value, functional.segmentation_cross_entropy(logits, target, **options))


def test_annotated_classes_with_a_softmax_need_merging():
    with pytest.raises(ValueError, match=r"taken for background\. Use merge_unannotated=True"):
        functional.dice_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), annotated=torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="merge_unannotated=True without annotated"):
        functional.dice_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), merge_unannotated=True)
    with pytest.raises(ValueError, match=r"takes annotated \[1, 2\], .*, got \(2,\)"):
        functional.dice_loss(
            torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), activation="sigmoid", annotated=torch.ones(2)
        )


def test_annotated_of_other_values_than_0_and_1_is_an_error():
    with pytest.raises(ValueError, match="dice_loss takes annotated of 0 and 1, or bool, got -1"):
        functional.dice_loss(
            torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), activation="sigmoid", annotated=torch.tensor([[1, -1]])
        )
