"""The memory that a forward and a backward pass take beside the logits and the target."""

import pytest
import torch
from peak_memory import PeakMemory

from fuse_losses.functional import compound_loss, dice_loss, focal_loss, segmentation_cross_entropy, tversky_loss


@pytest.mark.parametrize("options", [{}, {"class_weights": "ipw", "ignore_index": 255}], ids=["plain", "weighted"])
@pytest.mark.parametrize("classes", [4, 14, 60])
@pytest.mark.parametrize("loss", [segmentation_cross_entropy, focal_loss, dice_loss, tversky_loss])
def test_peak_memory_is_that_of_the_gradient_and_little_more(loss, classes, options):
    torch.manual_seed(0)
    shape = (1, classes, 48, 48, 48)
    logits, target = torch.randn(shape, requires_grad=True), torch.randint(classes, (1, 48, 48, 48))
    if options:
        target[:, :, :5] = 255
    with PeakMemory(logits, target) as memory:
        loss(logits, target, **options).backward()
    limit = 1 + 3 / classes + 0.1
    assert 1 <= memory.peak / logits.nbytes <= limit


COMPOUND = {"dice": 1.0, "cross_entropy": 1.0}


@pytest.mark.parametrize(
    ("shape", "soft", "limit"),
    [((1, 14, 48, 48, 48), False, 1.31), ((1, 14, 48, 48, 48), True, 1.31), ((8, 4, 128, 128), False, 1.6)],
)
def test_peak_memory_of_a_compound_loss_is_that_of_one_gradient_and_little_more(shape, soft, limit):
    torch.manual_seed(0)
    logits, target = torch.randn(shape, requires_grad=True), torch.randint(shape[1], (shape[0], *shape[2:]))
    target = torch.rand(shape).softmax(1) if soft else target
    with PeakMemory(logits, target) as memory:
        compound_loss(logits, target, COMPOUND).backward()
    assert 1 <= memory.peak / logits.nbytes <= limit


def test_the_count_of_memory_sees_what_a_formula_keeps():
    logits, target = torch.randn(1, 8, 1000, requires_grad=True), torch.randint(8, (1, 1000))
    with PeakMemory(logits, target) as memory:
        (logits.softmax(1) * torch.nn.functional.one_hot(target, 8).movedim(-1, 1)).sum().backward()
    assert memory.peak / logits.nbytes > 3
