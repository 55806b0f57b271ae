import pytest
import torch

from fuse_losses import functional


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def data(voxels):
    generator = torch.Generator().manual_seed(voxels)
    return torch.randn(2, 3, voxels, generator=generator), torch.randint(3, (2, voxels), generator=generator)


@pytest.mark.parametrize("name", ["segmentation_cross_entropy", "focal_loss", "dice_loss", "tversky_loss"])
def test_a_compiled_loss_takes_batches_of_another_size(name):
    loss = getattr(functional, name)
    compiled = torch.compile(
        lambda logits, target: loss(logits, target, class_weights="ipw"), fullgraph=True, backend="eager"
    )
    for voxels in (4, 9, 16):
        torch.testing.assert_close(compiled(*data(voxels)), loss(*data(voxels), class_weights="ipw"))


def test_gamma_may_follow_a_schedule_in_a_compiled_loss():
    def focal(logits, target, gamma):
        return functional.focal_loss(logits, target, gamma=gamma)

    compiled = torch.compile(focal, fullgraph=True, backend="eager")
    for gamma in (1.0, 2.0, 3.0):
        torch.testing.assert_close(compiled(*data(4), gamma), focal(*data(4), gamma))


def test_more_losses_and_ranks_are_compiled_than_one_function_may_have():
    losses = (functional.dice_loss, functional.focal_loss, functional.segmentation_cross_entropy)
    for loss in losses:
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        for shape in ((2, 3), (2, 3, 4), (2, 4, 3, 3), (2, 3, 2, 2, 2)):
            logits, target = torch.randn(shape), torch.randint(3, (2, *shape[2:]))
            torch.testing.assert_close(compiled(logits, target), loss(logits, target))
