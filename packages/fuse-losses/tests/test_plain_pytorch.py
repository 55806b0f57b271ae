"""Every dense loss is a criterion of logits and target, and tells how much it counted."""

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import (
    LossCompound,
    LossDense,
    LossDice,
    LossFocal,
    LossGeneralizedDice,
    LossSegmentationCrossEntropy,
    LossTversky,
    functional,
)

CLASSES = [LossSegmentationCrossEntropy, LossFocal, LossDice, LossTversky, LossGeneralizedDice]


def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 5, requires_grad=True), torch.randint(3, (2, 5))


@pytest.mark.parametrize("loss", CLASSES)
def test_a_loss_without_keys_takes_tensors(loss):
    logits, target = batch()
    mask = torch.rand(2, 5) < 0.7
    criterion = loss(ignore_index=1, weight=2.0)
    expected = 2 * loss.function(logits, target, ignore_index=1, mask=mask)
    assert torch.equal(criterion(logits, target, mask=mask), expected)
    with_keys = loss(pred="p", target="t", ignore_index=1, weight=2.0)
    assert torch.equal(with_keys(logits, target, mask=mask), expected)
    assert criterion.reads == ()


@pytest.mark.parametrize("given", [{"p": torch.zeros(1)}, torch.zeros(1, 2, 3)])
def test_a_loss_without_keys_says_so_if_it_gets_one_argument(given):
    message = f"LossDice was made without keys, so it takes logits and target, got {type(given).__name__} only"
    with pytest.raises(TypeError, match=message):
        LossDice()(given)


@pytest.mark.parametrize(
    ("arguments", "unread"),
    [
        ({"mask_key": "m", "preprocess_func": dict}, "mask_key='m' and preprocess_func"),
        ({"voxel_weights_key": "w"}, "voxel_weights_key='w'"),
    ],
)
def test_what_a_call_with_tensors_would_leave_out_is_an_error(arguments, unread):
    loss = LossDice(pred="p", target="t", **arguments)
    with pytest.raises(TypeError, match=rf"LossDice\(pred='p', .* logits and target, but {unread} needs a batch_dict"):
        loss(*batch())


@pytest.mark.parametrize("tensor", ["mask", "voxel_weights", "annotated"])
def test_a_tensor_beside_a_batch_dict_is_an_error(tensor):
    logits, target = batch()
    message = rf"LossDice\(pred='p', .* takes {tensor}= with logits and target, .* Make it with {tensor}_key="
    with pytest.raises(TypeError, match=message):
        LossDice(pred="p", target="t")({"p": logits, "t": target}, **{tensor: torch.zeros(2, 5)})


def test_a_key_that_holds_none_is_an_error():
    logits, target = batch()
    loss = LossDice(pred="p", target="t", mask_key="m")
    with pytest.raises(TypeError, match=r"LossDice\(pred='p', .* takes a tensor as mask, got None at the key 'm'"):
        loss({"p": logits, "t": target, "m": None})


def test_one_key_of_two_is_an_error():
    with pytest.raises(ValueError, match="LossDice takes keys for the prediction and the target, or no keys, got"):
        LossDice(pred="p")


def test_how_much_it_counted():
    logits, target = batch()
    target = torch.tensor([[0, 0, 1, 1, 255], [0, 0, 0, 0, 255]])
    cross_entropy = LossSegmentationCrossEntropy(ignore_index=255)
    assert cross_entropy.counted is None
    cross_entropy(logits, target)
    assert cross_entropy.counted == 8
    assert not cross_entropy.counted.requires_grad
    weighted = LossSegmentationCrossEntropy(ignore_index=255, class_weights=[1.0, 3.0, 1.0])
    weighted(logits, target)
    assert weighted.counted == 6 + 2 * 3
    dice = LossDice(ignore_index=255)
    dice(logits, target)
    assert dice.counted == 3  # two classes in the first sample, one in the second
    for loss in (cross_entropy, dice, LossCompound(ignore_index=255, terms={"dice": 1.0, "focal": 1.0})):
        assert loss(logits, torch.full_like(target, 255)) == 0
        assert loss.counted == 0
    summed = LossDice(reduction="sum")
    summed(logits, target.clamp(max=2))
    assert summed.counted is None


class LossBrier(LossDense):
    values_for = "voxel and class"

    def values(self, probabilities, truth):
        return (probabilities - truth).square()


def test_a_loss_of_ones_own_has_all_options():
    logits, target = batch()
    squares = (logits.softmax(1) - torch.nn.functional.one_hot(target, 3).movedim(-1, 1)).square()
    assert_close(LossBrier()(logits, target), squares.mean())
    valid = (target != 1)[:, None].expand(2, 3, 5)
    assert_close(LossBrier(ignore_index=1)(logits, target), squares[valid].mean())
    assert_close(LossBrier(include_background=False)(logits, target), squares[:, 1:].mean())
    assert LossBrier()(logits, target, mask=torch.zeros(2, 5)) == 0
    assert LossBrier(reduction="none")(logits, target).shape == (2, 3, 5)
    weights = torch.tensor([1.0, 2.0, 0.5])
    weighted = (squares * weights[:, None]).sum() / (weights.sum() * 10)
    assert_close(LossBrier(class_weights=weights)(logits, target), weighted)
    voxels = torch.rand(2, 5)
    assert_close(
        LossBrier()(logits, target, voxel_weights=voxels), (squares * voxels[:, None]).sum() / (3 * voxels.sum())
    )


def test_a_loss_of_ones_own_by_voxel_or_class_refuses_what_cannot_be_applied():
    class ByVoxel(LossBrier):
        values_for = "voxel"

        def values(self, probabilities, truth):
            return (probabilities - truth).abs().sum(1)

    class ByClass(LossBrier):
        values_for = "class"

        def values(self, probabilities, truth):
            return (probabilities.sum(2) - truth.sum(2)).square()

    logits, target = batch()
    difference = logits.softmax(1) - torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert_close(ByVoxel()(logits, target), difference.abs().sum(1).mean())
    assert_close(ByClass()(logits, target), difference.sum(2).square().mean())
    with pytest.raises(ValueError, match="ByVoxel returns values for voxels, to which class_weights cannot be applied"):
        ByVoxel(class_weights=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="ByClass returns values for classes, to which voxel_weights cannot be"):
        ByClass()(logits, target, voxel_weights=torch.ones(2, 5))
    keys = {"pred": "p", "target": "t"}
    with pytest.raises(ValueError, match="ByClass says values_for='class', to which voxel_weights_key cannot be"):
        ByClass(**keys, voxel_weights_key="w")
    with pytest.raises(ValueError, match="ByVoxel says values_for='voxel', to which annotated_key cannot be applied"):
        ByVoxel(**keys, annotated_key="a", activation="sigmoid")
    with pytest.raises(ValueError, match="returns values for voxels, to which include_background=False cannot be"):
        ByVoxel(include_background=False)
    with pytest.raises(TypeError, match="ByVoxel takes no 'values_for', which is an attribute of the class"):
        ByVoxel(values_for="class")


def test_a_loss_of_ones_own_without_values_or_of_a_wrong_shape_is_an_error():
    class Nothing(LossDense):
        def loss(self, logits, target, mask, options):
            return logits.sum()

    class Scalar(LossDense):
        def values(self, probabilities, truth):
            return (probabilities - truth).mean()

    with pytest.raises(TypeError, match=r"Nothing is a LossDense and defines no `values\(probabilities, truth\)`"):
        Nothing()
    with pytest.raises(ValueError, match=r"Scalar says values_for='voxel and class', so values returns \(2, 3, 5\)"):
        Scalar()(*batch())


def test_top_k_of_all_voxels_is_cross_entropy():
    logits, target = batch()
    target[0, 0] = 255
    options = {"ignore_index": 255, "class_weights": [1.0, 2.0, 0.5]}
    assert_close(
        functional.top_k_cross_entropy(logits, target, k=1, **options),
        functional.segmentation_cross_entropy(logits, target, **options),
    )
    losses = functional.segmentation_cross_entropy(logits, target, ignore_index=255, reduction="none")
    worst = functional.top_k_cross_entropy(logits, target, ignore_index=255, k=0.3)  # of 9 voxels
    assert_close(worst, losses.flatten().topk(3).values.mean())
    kept = functional.top_k_cross_entropy(logits, target, ignore_index=255, k=0.3, reduction="none")
    assert (kept > 0).sum() == 3
    with pytest.raises(ValueError, match=r"top_k_cross_entropy\(k=\) is a share of the voxels.* got 0"):
        functional.top_k_cross_entropy(logits, target, k=0)


@pytest.mark.parametrize("keys", [{}, {"pred": "p", "target": "t"}], ids=["tensors", "batch_dict"])
def test_a_compiled_loss_tells_how_much_counted_and_its_terms(keys):
    loss = LossCompound(terms={"cross_entropy": 1.0, "dice": 1.0}, ignore_index=255, **keys)
    logits, target = torch.randn(1, 3, 4, requires_grad=True), torch.tensor([[0, 1, 2, 255]])
    expected = loss(logits, target)
    terms = loss.terms
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert_close(compiled({"p": logits, "t": target}) if keys else compiled(logits, target), expected)
    assert loss.counted == 3
    assert_close(loss.terms, terms)
