"""The memory that a forward and a backward pass take beside the logits and the target."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fuse_losses.functional import dice_loss, focal_loss, segmentation_cross_entropy, tversky_loss


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return and that are still alive."""

    def __init__(self, *known):
        super().__init__()
        self.known = {one.untyped_storage().data_ptr() for one in known}
        self.alive = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in self.known:
                storage = one.untyped_storage()
                self.alive[StorageWeakRef(storage).cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.alive.values()))
        return result


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


def test_the_count_of_memory_sees_what_a_formula_keeps():
    logits, target = torch.randn(1, 8, 1000, requires_grad=True), torch.randint(8, (1, 1000))
    with PeakMemory(logits, target) as memory:
        (logits.softmax(1) * torch.nn.functional.one_hot(target, 8).movedim(-1, 1)).sum().backward()
    assert memory.peak / logits.nbytes > 3
