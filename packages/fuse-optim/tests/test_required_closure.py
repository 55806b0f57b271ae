import pytest
import torch
from torch import nn

from fuse_optim import SAM


def make(base=torch.optim.SGD, **options):
    return SAM([nn.Parameter(torch.ones(1))], base, **options)


def test_a_closure_is_needed():
    with pytest.raises(
        ValueError, match=r"(?s)SAM\.step needs a closure.*optimizer\.step\(closure\).*Lightning.*Callb"
    ):
        make().step()


def test_the_optimizer_is_not_for_the_step_of_a_scaler():
    weight = nn.Parameter(torch.ones(1))
    optimizer, scaler = SAM([weight], torch.optim.SGD), torch.amp.GradScaler("cpu")
    scaler.scale(weight.sum()).backward()
    with pytest.raises(ValueError, match=r"step\(closure, grad_scaler=scaler\) instead of scaler\.step\(optimizer\)"):
        scaler.step(optimizer)
