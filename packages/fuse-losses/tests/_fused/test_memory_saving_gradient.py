"""The operations that the losses are when compiled keep to what torch demands of an operation."""

import pytest
import torch

import fuse_losses  # noqa: F401  registers them


def tensors(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=dtype).requires_grad_()
    return logits, torch.randint(3, (2, 5), generator=generator), torch.rand(2, 5, generator=generator) < 0.7


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.15's own, in opcheck
@pytest.mark.parametrize(("dtype", "masked"), [(torch.float32, True), (torch.float16, False)])
def test_torch_finds_nothing_wrong_with_them(dtype, masked):
    logits, target, valid = tensors(dtype)
    valid = valid if masked else None
    operations = torch.ops.fuse_losses
    calls = {
        operations.one_pass.default: (
            *(logits, target, valid, torch.rand(3) if masked else None, torch.rand(2, 5) if masked else None),
            *("softmax", masked, masked, 1.5),
        ),
        operations.class_counts.default: (target, valid, 3, torch.rand(2, 5) if masked else None),
    }
    torch.library.opcheck(operations.class_counts.default, (logits.detach(), valid, 3, None))
    for operation, arguments in calls.items():
        torch.library.opcheck(operation, arguments)
