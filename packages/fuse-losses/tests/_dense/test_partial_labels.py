"""Labels as they come: partial, soft, regions, weights of voxels, a single channel, smoothed."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fuse_losses import LossDice, LossSegmentationCrossEntropy, functional

POINTWISE = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]
OVERLAP = [functional.dice_loss, functional.tversky_loss, functional.generalized_dice_loss]


def multilabel():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    return logits, torch.tensor([[1, 0, -1], [0, -1, 1], [-1, 1, 0], [1, 0, 0]])


def test_a_single_unknown_label_leaves_the_others_of_its_sample_in():
    logits, target = multilabel()
    known = target >= 0
    loss = functional.segmentation_cross_entropy(logits, target, activation="sigmoid", ignore_index=-1)
    assert_close(loss, F.binary_cross_entropy_with_logits(logits[known], target[known].float()))
    assert round(loss.item(), 4) == 0.6984
    (grad,) = torch.autograd.grad(loss, logits)
    assert ((grad != 0) == known).all()


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_a_mask_for_each_class_is_as_good_as_ignore_index_in_single_entries(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randint(2, (2, 3, 4, 5))
    mask = torch.rand(2, 3, 4, 5) < 0.7
    masked = loss(logits, target, activation="sigmoid", mask=mask)
    ignored = loss(logits, torch.where(mask, target, -1), activation="sigmoid", ignore_index=-1)
    assert_close(masked, ignored)
    (grad,) = torch.autograd.grad(masked, logits)
    assert (grad[~mask] == 0).all()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target, activation="sigmoid", mask=mask), logits.detach().double().requires_grad_()
    )


@pytest.mark.parametrize("loss", OVERLAP)
def test_a_mask_for_each_class_works_with_a_softmax(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), torch.randint(3, (2, 5))
    mask = torch.rand(2, 3, 5) < 0.7
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask=mask), logits)
    p = logits.softmax(1) * mask
    y = F.one_hot(target, 3).movedim(-1, 1) * mask
    if loss is functional.dice_loss:
        dice = 1 - 2 * (p * y).sum(2) / (p + y).sum(2)
        present = y.sum(2) > 0
        assert_close(loss(logits, target, mask=mask), dice[present].mean())


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


def test_annotated_classes_with_a_softmax_need_merging():
    with pytest.raises(ValueError, match=r"taken for background\. Use merge_unannotated=True"):
        functional.dice_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), annotated=torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="merge_unannotated=True without annotated"):
        functional.dice_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), merge_unannotated=True)
    with pytest.raises(ValueError, match=r"takes annotated \[1, 2\], .*, got \(2,\)"):
        functional.dice_loss(
            torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), activation="sigmoid", annotated=torch.ones(2)
        )


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


def test_a_negative_class_with_regions_is_an_error_unless_it_does_not_count():
    logits, target = torch.randn(1, 2, 4), torch.tensor([[0, 1, 2, -1]])
    options = {"activation": "sigmoid", "regions": [[1, 2], [2]]}
    with pytest.raises(ValueError, match="dice_loss with regions takes class indices from 0, got -1"):
        functional.dice_loss(logits, target, **options)
    ignored = functional.dice_loss(logits, target, ignore_index=-1, **options)
    assert_close(functional.dice_loss(logits, target, mask=target >= 0, **options), ignored)
    assert_close(functional.dice_loss(logits, target, mask=(target >= 0)[:, None].expand(1, 2, 4), **options), ignored)


def test_annotated_of_other_values_than_0_and_1_is_an_error():
    with pytest.raises(ValueError, match="dice_loss takes annotated of 0 and 1, or bool, got -1"):
        functional.dice_loss(
            torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), activation="sigmoid", annotated=torch.tensor([[1, -1]])
        )


def test_regions_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"regions=\) overlap, so they need activation='sigmoid', got 'softmax'"):
        LossDice(pred="a", target="b", regions=[[1], [2]])
    with pytest.raises(ValueError, match="got 2 regions for a prediction of 3 channels"):
        functional.dice_loss(torch.zeros(1, 3, 4), torch.zeros(1, 4).long(), activation="sigmoid", regions=[[1], [2]])
    with pytest.raises(ValueError, match=r"regions=\) takes at least one class index for each channel"):
        LossDice(pred="a", target="b", regions=[[]], activation="sigmoid")


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_voxel_of_weight_2_counts_like_two_and_one_of_weight_0_not_at_all(loss, activation, soft):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 3, 6, dtype=torch.float64) if soft else torch.randint(3, (1, 6))
    weights = torch.tensor([[1.0, 2.0, 0.0, 1.0, 2.0, 1.0]])
    index = torch.tensor([0, 1, 1, 3, 4, 4, 5])
    value = loss(logits, target, activation=activation, voxel_weights=weights, class_weights=[1.0, 2.0, 0.5])
    if loss is not functional.top_k_cross_entropy:
        repeated = loss(logits[..., index], target[..., index], activation=activation, class_weights=[1.0, 2.0, 0.5])
        assert_close(value, repeated)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, activation=activation, voxel_weights=weights), logits)


def test_weights_of_voxels_are_a_key_in_the_class():
    torch.manual_seed(0)
    logits, target, weights = torch.randn(2, 3, 5), torch.randint(3, (2, 5)), torch.rand(2, 5)
    loss = LossDice(pred="p", target="t", voxel_weights_key="w")
    assert loss.reads == ("p", "t", "w")
    value = loss({"p": logits, "t": target, "w": weights})
    assert_close(value, functional.dice_loss(logits, target, voxel_weights=weights))


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (255.0, "255"), (float("nan"), "nan")])
def test_a_mask_of_other_values_than_0_and_1_is_an_error(value, shown):
    mask = torch.ones(2, 5)
    mask[0, 0] = value
    loss = LossDice(pred="p", target="t", mask_key="m")
    with pytest.raises(ValueError, match=rf"^LossDice\(pred='p', target='t'\) takes a mask of 0 and 1.* got {shown}\."):
        loss({"p": torch.randn(2, 3, 5), "t": torch.randint(3, (2, 5)), "m": mask})


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weights_of_voxels_that_are_no_weights_are_an_error(value):
    weights = torch.ones(2, 5)
    weights[0, 0] = value
    with pytest.raises(ValueError, match="dice_loss takes finite voxel_weights of at least 0"):
        functional.dice_loss(torch.randn(2, 3, 5), torch.randint(3, (2, 5)), voxel_weights=weights)


@pytest.mark.parametrize("class_weights", [[100.0], "ipw"])
@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_class_weights_of_a_single_channel_are_an_error_that_says_pos_weight(loss, class_weights):
    with pytest.raises(ValueError, match=r"class_weights for a single channel.* use pos_weight"):
        loss(torch.zeros(2, 1, 4), torch.zeros(2, 4).long(), activation="sigmoid", class_weights=class_weights)


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


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_a_region_of_a_class_that_the_targets_type_cannot_hold_is_empty(activation):
    logits, target = torch.rand(1, 2, 4), torch.tensor([[44, 0, 44, 1]], dtype=torch.uint8)  # 300 - 256 is 44
    options = {"activation": activation, "regions": [[300], [1]], "empty": "penalize"}
    assert_close(
        functional.dice_loss(logits, target, **options), functional.dice_loss(logits, target.long(), **options)
    )


@pytest.mark.parametrize("empty", ["skip", "zero", "penalize"])
@pytest.mark.parametrize("loss", OVERLAP)
def test_a_sample_without_a_valid_voxel_does_not_count(loss, empty):
    if loss is functional.generalized_dice_loss and empty == "zero":
        pytest.skip("an option that generalized Dice does not have")
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5), torch.randint(2, (2, 5))
    target[1] = 255
    options = {"ignore_index": 255, "empty": empty}
    assert_close(loss(logits, target, **options), loss(logits[:1], target[:1], **options))


@pytest.mark.parametrize("loss", POINTWISE + OVERLAP)
def test_what_a_voxel_left_out_for_all_classes_holds_does_not_matter(loss):
    torch.manual_seed(0)
    logits, target, mask = torch.randn(2, 3, 5), torch.randint(3, (2, 5)), torch.rand(2, 3, 5) < 0.8
    mask[0, :, 0] = False
    dirty = logits.clone()
    dirty[0, 1, 0] = torch.nan
    values, grads = [], []
    for one in (logits, dirty):
        one.requires_grad_()
        values.append(loss(one, target, mask=mask))
        grads += torch.autograd.grad(values[-1], one)
    assert_close(values[1], values[0])
    assert_close(grads[1], grads[0])
