"""Where MONAI computes the textbook's formula, so do we; where it does not, both values are pinned."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from fuse_losses.functional import (
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    segmentation_cross_entropy,
    tversky_loss,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of its imports are not ours
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed; it is one of the test dependencies")


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 6, 7, requires_grad=True)
    return logits, torch.randint(4, (3, 6, 7))  # every sample holds every class


def assert_same(ours, theirs, logits):
    assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    (grad,), (their_grad,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    assert_close(grad, their_grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("whole_batch", [True, False])
@pytest.mark.parametrize(("squared", "jaccard"), [(False, False), (True, False), (False, True)])
def test_dice_is_monais(batch, background, whole_batch, squared, jaccard):
    logits, target = batch
    theirs = losses.DiceLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=background,
        batch=whole_batch,
        squared_pred=squared,
        jaccard=jaccard,
        smooth_nr=0.0,
        smooth_dr=0.0,
    )(logits, target[:, None])
    ours = dice_loss(
        logits, target, include_background=background, per_sample=not whole_batch, squared=squared, jaccard=jaccard
    )
    assert_same(ours, theirs, logits)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
def test_tversky_is_monais(batch, alpha, beta):
    logits, target = batch
    theirs = losses.TverskyLoss(softmax=True, to_onehot_y=True, alpha=alpha, beta=beta, smooth_nr=0.0, smooth_dr=0.0)(
        logits, target[:, None]
    )
    assert_same(tversky_loss(logits, target, alpha=alpha, beta=beta), theirs, logits)


@pytest.mark.parametrize("kind", ["square", "simple", "uniform"])
def test_generalized_dice_is_monais(batch, kind):
    logits, target = batch
    theirs = losses.GeneralizedDiceLoss(softmax=True, to_onehot_y=True, w_type=kind, smooth_nr=0.0, smooth_dr=0.0)(
        logits, target[:, None]
    )
    assert_same(generalized_dice_loss(logits, target, volume_weights=kind), theirs, logits)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_sigmoid_focal_loss_is_monais(batch, gamma):
    logits, target = batch
    theirs = losses.FocalLoss(to_onehot_y=True, gamma=gamma, alpha=0.25)(logits, target[:, None])
    assert_same(focal_loss(logits, target, gamma=gamma, alpha=0.25, activation="sigmoid"), theirs, logits)


def test_softmax_focal_loss_is_monais_times_the_number_of_classes(batch):
    """MONAI averages over voxels and classes, though all classes but the target's contribute 0."""
    logits, target = batch
    theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, target[:, None])
    assert_same(focal_loss(logits, target, gamma=2.0), 4 * theirs, logits)


def test_monais_softmax_focal_of_gamma_0_is_cross_entropy_over_the_class_count(batch):
    logits, target = batch
    theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.0)(logits, target[:, None])
    assert_same(focal_loss(logits, target, gamma=0.0), 4 * theirs, logits)
    assert_close(segmentation_cross_entropy(logits, target), 4 * theirs)


def test_monais_focal_loss_leaves_the_background_out_of_the_softmax_too(batch):
    """We leave it out of the sum only: the probabilities of the other classes are the network's."""
    logits, target = batch
    theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.0, include_background=False, reduction="sum")(
        logits, target[:, None]
    )
    theirs = 6 * 7 * theirs  # its sum is one of the means over each sample's voxels
    foreground = torch.where(target > 0, target - 1, -100)
    without = segmentation_cross_entropy(logits[:, 1:], foreground, ignore_index=-100, reduction="sum")
    assert_close(theirs, without)
    ours = focal_loss(logits, target, gamma=0.0, include_background=False, reduction="sum")
    assert_close(ours, segmentation_cross_entropy(logits, target, class_weights=[0.0, 1, 1, 1], reduction="sum"))
    assert not torch.isclose(ours, theirs, rtol=1e-2)


def test_monais_dice_counts_an_absent_class_as_nearly_1_without_a_useful_gradient():
    """We skip it, or give it a gradient that does not fade."""
    logits = torch.zeros(1, 2, 1000, requires_grad=True)
    target = torch.zeros(1, 1000, dtype=torch.long)
    theirs = losses.DiceLoss(softmax=True, to_onehot_y=True, include_background=False)(logits, target[:, None])
    (their_grad,) = torch.autograd.grad(theirs, logits)
    assert_close(theirs, torch.tensor(1.0))
    assert their_grad.abs().max() < 1e-9
    assert dice_loss(logits, target, include_background=False) == 0
    penalized = dice_loss(logits, target, include_background=False, empty="penalize")
    (grad,) = torch.autograd.grad(penalized, logits)
    assert_close(grad[0, 1], torch.full((1000,), 0.25 / 1000))


def test_monais_focal_loss_of_a_gamma_below_1_has_no_gradient_under_saturation():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).T[None].contiguous().requires_grad_()
    target = torch.tensor([[0, 1]])
    theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.5)(logits, target[:, None])
    assert torch.autograd.grad(theirs, logits)[0].isnan().any()
    (grad,) = torch.autograd.grad(focal_loss(logits, target, gamma=0.5), logits)
    assert grad.isfinite().all()


def test_monais_dice_of_fp16_logits_is_always_1_because_a_sum_overflows():
    logits = torch.zeros(1, 2, 512, 512, dtype=torch.float16)
    target = torch.zeros(1, 1, 512, 512, dtype=torch.long)
    assert losses.DiceLoss(softmax=True, to_onehot_y=True)(logits, target) == 1
    assert_close(dice_loss(logits, target), torch.tensor(1 / 3))
