"""Options in random combinations: a compound loss is still the sum of its losses, and all of it is finite."""

import random

import pytest
import torch
from torch.testing import assert_close

from fuse_losses import LossCompound, functional

TERMS = {
    "cross_entropy": functional.segmentation_cross_entropy,
    "focal": functional.focal_loss,
    "top_k_cross_entropy": functional.top_k_cross_entropy,
    "dice": functional.dice_loss,
    "tversky": functional.tversky_loss,
    "generalized_dice": functional.generalized_dice_loss,
}
OF_TERM = {
    "cross_entropy": {"label_smoothing": [0.0, 0.1]},
    "focal": {"gamma": [0.0, 0.5, 2.0], "alpha": [None, 0.25, [0.1, 0.2, 0.3]], "label_smoothing": [0.0, 0.1]},
    "top_k_cross_entropy": {"k": [0.3, 1.0]},
    "dice": {"squared": [False, True], "jaccard": [False, True], "empty": ["skip", "penalize", "zero"]},
    "tversky": {"alpha": [0.5, 0.3], "gamma": [1.0, 0.75], "empty": ["skip", "penalize", "zero"]},
    "generalized_dice": {"volume_weights": ["square", "uniform"], "per_sample": [True, False]},
}


def choose(seed):
    """A batch, shared options and terms."""
    rng, _ = random.Random(seed), torch.manual_seed(seed)
    spatial = rng.choice([(), (5,), (4, 2)])
    activation = rng.choice(["softmax", "softmax", "sigmoid", "none"])
    resize_mode = rng.choice([None, None, "nearest", "area"]) if spatial else None
    size = tuple(2 * one for one in spatial) if resize_mode else spatial
    logits = torch.randn(2, 3, *spatial, dtype=torch.float64)
    logits = logits.softmax(1) if activation == "none" else logits
    target = rng.choice([torch.randint(3, (2, *size)), torch.rand(2, 3, *size, dtype=torch.float64)])
    options = {"activation": activation, "resize_mode": resize_mode, "reduction": rng.choice(["mean", "sum"])}
    if rng.random() < 0.4:
        options["ignore_index"] = 255
        entries = target.shape if activation != "softmax" else (2, *[1] * (target.ndim - 1 - len(size)), *size)
        target = torch.where(torch.rand(entries) < 0.3, torch.tensor(255, dtype=target.dtype), target)
    others = {
        "mask": rng.choice([torch.rand(2, *size) < 0.7, torch.rand(2, 3, *size) < 0.7]),
        "voxel_weights": torch.rand(2, *size),
        "class_weights": rng.choice(["ipw", [1.0, 0.5, 2.0]]),
        "include_background": False,
        "annotated": torch.rand(2, 3) < 0.6,
    }
    options |= {name: value for name, value in others.items() if rng.random() < 0.35}
    options["merge_unannotated"] = "annotated" in options and activation == "softmax"
    terms = {
        name: {"weight": rng.choice([0.5, 2.0]), **{option: rng.choice(of) for option, of in OF_TERM[name].items()}}
        for name in rng.sample(list(TERMS), rng.choice([2, 3]))
    }
    return logits.requires_grad_(), target, options, terms


@pytest.mark.parametrize("seed", range(150))
def test_a_compound_loss_is_the_sum_of_its_losses(seed):
    logits, target, options, terms = choose(seed)
    tensors = {name: options.pop(name) for name in ("mask", "voxel_weights", "annotated") if name in options}
    loss = LossCompound(terms=terms, **options)
    value = loss(logits, target, **tensors)
    expected = 0
    for name, own in terms.items():
        own = {option: one for option, one in own.items() if option != "weight"}
        expected = expected + terms[name]["weight"] * TERMS[name](logits, target, **options, **own, **tensors)
    (grad,), (expected_grad,) = torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
    assert_close(value, expected, rtol=1e-12, atol=1e-14)
    assert_close(grad, expected_grad, rtol=1e-10, atol=1e-12)
    assert grad.isfinite().all()
    if options["reduction"] == "mean" and value != 0:
        assert loss.counted > 0
