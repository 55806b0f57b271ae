"""Top-k cross-entropy: which voxels it takes, and what it divides by."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fuse_losses.functional import segmentation_cross_entropy, top_k_cross_entropy


@pytest.mark.parametrize("kind", ["classes", "soft", "multilabel"])
@pytest.mark.parametrize("masked", [False, True, "for each class"])
@pytest.mark.parametrize("options", [{}, {"class_weights": [1.0, 2.0, 0.5]}, {"label_smoothing": 0.1}], ids=str)
def test_all_voxels_are_cross_entropy(kind, masked, options):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    target = {
        "classes": torch.randint(3, (2, 6)),
        "soft": torch.rand(2, 3, 6, dtype=torch.float64).softmax(1),
        "multilabel": torch.randint(2, (2, 3, 6)),
    }[kind]
    mask = None if masked is False else torch.rand(2, *([3] if masked is not True else []), 6) < 0.7
    value = top_k_cross_entropy(logits, target, k=1.0, mask=mask, **options)
    expected = segmentation_cross_entropy(logits, target, mask=mask, **options)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(one, logits)[0] for one in (value, expected)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("k", "voxels", "taken"), [(0.07, 100, 7), (0.1, 30, 3), (0.1, 31, 4), (1.0, 9, 9)])
def test_the_share_is_rounded_up_to_whole_voxels(k, voxels, taken, masked, compiled):
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, voxels + 20), torch.randint(3, (1, voxels + 20))
    mask = torch.arange(voxels + 20)[None] < voxels if masked else None
    if not masked:
        logits, target = logits[..., :voxels], target[..., :voxels]
    loss = torch.compile(top_k_cross_entropy, backend="aot_eager") if compiled else top_k_cross_entropy
    worst = F.cross_entropy(logits[..., :voxels], target[..., :voxels], reduction="none").sort(descending=True).values
    assert_close(loss(logits, target, k=k, mask=mask), worst[0, :taken].mean())
    left = loss(logits, target, k=k, mask=mask, reduction="none")
    assert (left != 0).sum() == taken


def test_a_batch_without_a_valid_voxel_gives_0():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    value = top_k_cross_entropy(logits, torch.full((1, 5), 255), ignore_index=255)
    (grad,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert (grad == 0).all()


@pytest.mark.parametrize("voxels", [10, 2**15])
def test_a_loss_that_is_nan_is_not_left_out(voxels):
    logits = torch.zeros(1, 2, voxels)
    logits[0, 0, 5] = torch.nan
    assert top_k_cross_entropy(logits, torch.zeros(1, voxels).long(), k=0.1).isnan()


@pytest.mark.parametrize("similar", [False, True])
def test_among_many_voxels_it_chooses_those_that_topk_does(similar):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 120, 120, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (2, 120, 120))
    target[:, :40] = 255
    if similar:  # every 17th voxel, which the guess looks at, is predicted worst
        with torch.no_grad():
            logits.flatten(2)[..., ::17] *= 10
    losses = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, reduction="none")
    expected = losses.flatten().topk(1920).values.mean()
    value = top_k_cross_entropy(logits, target, k=0.1, ignore_index=255)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(one, logits)[0] for one in (value, expected)))
