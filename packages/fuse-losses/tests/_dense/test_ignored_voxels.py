"""Voxels that do not count may hold anything, NaN included; weights say how much the others count."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fuse_losses import LossDice, functional

POINTWISE = [functional.segmentation_cross_entropy, functional.focal_loss, functional.top_k_cross_entropy]
OVERLAP = [functional.dice_loss, functional.tversky_loss, functional.generalized_dice_loss]
FUNCTIONS = [
    functional.segmentation_cross_entropy,
    functional.focal_loss,
    functional.dice_loss,
    functional.tversky_loss,
    functional.generalized_dice_loss,
]
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
    expected = value_and_gradient(functional.dice_loss, logits, target, **options)
    target = torch.where(mask[:, None], target, torch.nan)
    torch.testing.assert_close(value_and_gradient(functional.dice_loss, logits, target, **options), expected)


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
