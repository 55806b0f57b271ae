import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fuse_losses.functional import (
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    resize_target,
    segmentation_cross_entropy,
    tversky_loss,
)

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def windows(old, new):
    """The old positions that each of the new ones touches along an axis."""
    return [range(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]


def pooled_by_loops(target, valid, new_size, classes, mode):
    """[B, C, *new_size] of class indices, and which voxels are valid, by loops over 3 spatial axes."""
    samples, *old_size = target.shape
    pooled = torch.zeros(samples, classes, *new_size, dtype=torch.float64)
    any_valid = torch.zeros(samples, *new_size, dtype=torch.bool)
    axes = [windows(old, new) for old, new in zip(old_size, new_size, strict=True)]
    for b in range(samples):
        for x, xs in enumerate(axes[0]):
            for y, ys in enumerate(axes[1]):
                for z, zs in enumerate(axes[2]):
                    inside = [target[b, i, j, k].item() for i in xs for j in ys for k in zs if valid[b, i, j, k]]
                    any_valid[b, x, y, z] = bool(inside)
                    for c in range(classes):
                        share = inside.count(c) / len(inside) if inside else 0.0
                        pooled[b, c, x, y, z] = share if mode == "area" else float(share > 0)
    return pooled, any_valid


@given(old=SIZES, data=st.data())
def test_nearest_is_torchs_nearest_exact(old, data):
    new = data.draw(st.lists(st.integers(1, 9), min_size=len(old), max_size=len(old)))
    target = torch.randint(300, (2, *old), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(target[:, None].double(), new, mode="nearest-exact")[:, 0].long()
    assert torch.equal(resize_target(target, new, "nearest"), expected)
    assert torch.equal(resize_target(target[:, None], new, "nearest"), expected[:, None])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_nearest_keeps_the_type_and_large_integers(dtype):
    target = torch.tensor([[0, 1, 2**53 + 1, 1]]).to(dtype)
    resized = resize_target(target, [2], "nearest")
    assert resized.dtype == dtype
    assert torch.equal(resized, target[:, [1, 3]])


@given(
    old=st.tuples(*[st.integers(1, 4)] * 3),
    new=st.tuples(*[st.integers(1, 5)] * 3),
    mode=st.sampled_from(["maxpool", "area"]),
    ignore_index=st.sampled_from([None, 0, 255, -100]),
)
def test_pooling_is_what_loops_compute(old, new, mode, ignore_index):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, *old), generator=generator)
    if ignore_index is not None:
        target = torch.where(torch.rand(target.shape, generator=generator) < 0.5, ignore_index, target)
    valid = target != ignore_index if ignore_index is not None else torch.ones_like(target, dtype=torch.bool)
    expected, any_valid = pooled_by_loops(target, valid, new, 3, mode)
    if ignore_index is not None:
        mark = torch.tensor([1.0, 0, 0]) if ignore_index == 0 else torch.full((3,), float(ignore_index))
        expected = torch.where(any_valid[:, None], expected, mark.double()[:, None, None, None])
    resized = resize_target(target, new, mode, num_classes=3, ignore_index=ignore_index)
    assert resized.dtype == torch.float32
    assert_close(resized.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["maxpool", "area"])
def test_pooling_probabilities_is_pooling_the_classes_they_stand_for(mode):
    target = torch.randint(3, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    expected = resize_target(target, [2, 8], mode, num_classes=3)
    assert torch.equal(resize_target(one_hot.float(), [2, 8], mode), expected)
    assert torch.equal(resize_target(target[:, None], [2, 8], mode, num_classes=3), expected)


def test_maxpool_keeps_a_small_lesion_and_no_class_wins_by_its_number():
    target = torch.tensor([[0, 0, 0, 1, 0, 2, 0, 0]])
    resized = resize_target(target, [2], "maxpool", num_classes=3)
    assert torch.equal(resized, torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]]))


@pytest.mark.parametrize(
    "loss", [segmentation_cross_entropy, focal_loss, dice_loss, tversky_loss, generalized_dice_loss]
)
@pytest.mark.parametrize("mode", ["nearest", "maxpool", "area"])
@pytest.mark.parametrize(("new", "old"), [((6,), (9,)), ((6, 5), (3, 11)), ((4, 4, 4), (9, 1, 5))])
def test_losses_resize_target_and_mask_of_any_size(loss, mode, new, old):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, *new)
    target, mask = torch.randint(3, (2, *old)), torch.rand(2, *old) < 0.8
    value = loss(logits, target, mask=mask, resize_mode=mode)
    marked = torch.where(mask, target, 255)
    resized = resize_target(marked, new, mode, num_classes=3, ignore_index=255)
    assert_close(value, loss(logits, resized, ignore_index=255))
    assert_close(value, loss(logits, marked[:, None], ignore_index=255, resize_mode=mode))


def test_a_loss_resizes_a_single_channel():
    logits, target = torch.zeros(1, 1, 2), torch.tensor([[0, 1, 0, 0]])
    assert_close(dice_loss(logits, target, activation="sigmoid", resize_mode="maxpool"), torch.tensor(0.5))


def test_equal_sizes_are_not_touched():
    target = torch.randint(3, (2, 4, 4))
    assert resize_target(target, [4, 4], "nearest") is target
    logits = torch.randn(2, 3, 4, 4)
    assert torch.equal(dice_loss(logits, target, resize_mode="area"), dice_loss(logits, target))


def test_an_unknown_mode_is_an_error():
    with pytest.raises(
        ValueError, match=r"resize_target\(mode=\) is one of 'nearest', 'maxpool', 'area', got 'linear'"
    ):
        resize_target(torch.zeros(1, 4), [2], "linear")


def test_a_wrong_rank_is_an_error():
    with pytest.raises(ValueError, match=r"1 to 3 spatial axes .* got a target of shape \(4,\) for size \(2,\)"):
        resize_target(torch.zeros(4), [2], "nearest")


def test_pooling_class_indices_needs_their_number():
    with pytest.raises(ValueError, match="needs num_classes to resize class indices with mode 'area', got None"):
        resize_target(torch.zeros(1, 4, dtype=torch.long), [2], "area")


def test_a_wrong_number_of_classes_is_an_error():
    with pytest.raises(ValueError, match="given num_classes=3, but the target holds 2 classes"):
        resize_target(torch.zeros(1, 2, 4), [2], "area", num_classes=3)


@pytest.mark.parametrize("mode", ["nearest", "maxpool", "area"])
def test_a_target_without_voxels_is_an_error(mode):
    with pytest.raises(ValueError, match=r"without voxels cannot be resized, got shape \(1, 0\)"):
        resize_target(torch.zeros(1, 0, dtype=torch.long), [2], mode, num_classes=2)


@pytest.mark.parametrize("mode", ["nearest", "maxpool", "area"])
def test_a_loss_resizes_class_indices_of_type_bool(mode):
    torch.manual_seed(0)
    logits, lesion = torch.randn(2, 2, 3, 3), torch.rand(2, 6, 6) < 0.3
    expected = dice_loss(logits, lesion.long(), resize_mode=mode)
    assert torch.equal(dice_loss(logits, lesion, resize_mode=mode), expected)


def test_pooling_floating_point_class_indices_is_an_error():
    with pytest.raises(TypeError, match=r"^resize_target takes class indices of an integer type, got torch\.float32\."):
        resize_target(torch.zeros(1, 1, 4), [2], "area", num_classes=2)


def test_classes_that_the_type_cannot_hold_do_not_wrap_around():
    target = torch.tensor([[1, 2, 250, 255]], dtype=torch.uint8)
    pooled = resize_target(target, [2], "maxpool", num_classes=300)
    assert pooled[0].nonzero().tolist() == [[1, 0], [2, 0], [250, 1], [255, 1]]


def test_a_target_that_is_no_tensor_is_an_error():
    with pytest.raises(TypeError, match=r"^resize_target takes a tensor, got list\. Convert it with torch\.as_tensor"):
        resize_target([[0, 1]], [1], "nearest")
