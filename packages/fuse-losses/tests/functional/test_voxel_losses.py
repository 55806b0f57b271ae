"""The options that cross-entropy and focal loss share."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fuse_losses import LossSegmentationCrossEntropy, functional

POINTWISE = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("pos_weight", [3.0, [1.0, 2.0, 0.5]])
def test_pos_weight_is_that_of_torch(pos_weight, reduction):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5), torch.rand(2, 3, 5)
    theirs = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(pos_weight).reshape(-1, 1), reduction=reduction
    )
    ours = functional.segmentation_cross_entropy(
        logits, target, activation="sigmoid", pos_weight=pos_weight, reduction=reduction
    )
    assert_close(ours, theirs)


def test_pos_weight_ipw_is_the_number_of_negatives_for_each_positive():
    logits, target = torch.randn(2, 1, 8), torch.tensor([[1, 0, 0, 0, 0, 0, 0, 255], [1, 0, 0, 0, 0, 0, 255, 255]])
    options = {"activation": "sigmoid", "ignore_index": 255}
    ours = functional.segmentation_cross_entropy(logits, target, pos_weight="ipw", **options)
    assert_close(ours, functional.segmentation_cross_entropy(logits, target, pos_weight=11 / 2, **options))


def test_pos_weight_of_a_softmax_is_an_error_and_ones_in_the_module_are_a_buffer():
    with pytest.raises(ValueError, match=r"pos_weight=\) weighs the positives of a sigmoid, got activation='softmax'"):
        LossSegmentationCrossEntropy(pred="p", target="t", pos_weight=2.0)
    loss = LossSegmentationCrossEntropy(pred="p", target="t", activation="sigmoid", pos_weight=[1.0, 2.0])
    assert list(loss.state_dict()) == ["pos_weight"]


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_label_smoothing_is_that_of_torch(weights, reduction):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), torch.randint(3, (2, 5))
    target[0, 0] = 255
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    options = {"ignore_index": 255, "label_smoothing": 0.1, "reduction": reduction}
    ours = functional.segmentation_cross_entropy(logits, target, class_weights=weights, **options)
    theirs = F.cross_entropy(logits, target, tensor, **options)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours.sum(), logits)[0], torch.autograd.grad(theirs.sum(), logits)[0])
    focal = functional.focal_loss(logits, target, gamma=0.0, class_weights=weights, **options)
    assert_close(focal, ours)


@pytest.mark.parametrize("loss", POINTWISE)
def test_label_smoothing_leaves_out_the_classes_merged_into_the_background(loss):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    target, annotated = torch.randint(2, (2, 6)), torch.tensor([[True, True, False, False]] * 2)
    value = loss(logits, target, annotated=annotated, merge_unannotated=True, label_smoothing=0.1)
    p = logits.softmax(1)
    merged = torch.stack([p[:, 0] + p[:, 2] + p[:, 3], p[:, 1]], 1).log()
    assert_close(value, loss(merged, target, label_smoothing=0.1))
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("loss", POINTWISE)
def test_probabilities_of_sigmoids_are_an_error_where_those_of_a_softmax_are_meant(loss):
    probabilities, target = torch.full((2, 3, 4), 0.9), torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"{loss.__name__} .* sum to 1 over the classes, got a sum of 2\.7"):
        loss(probabilities, target, activation="none")
    mask = torch.tensor([True, False, False, False]).expand(2, 4)
    probabilities[:, :, 0] = 1 / 3
    assert loss(probabilities, target, activation="none", mask=mask) > 0  # voxels that do not count hold anything
