import math

import pytest
import torch
from small_network import make_closure, make_problem
from torch import nn

from fuse_optim import LookSAM


@pytest.mark.parametrize("value", [-1.0, math.nan, "5e-1"])
def test_looksam_needs_a_length_that_is_finite_and_not_negative(value):
    with pytest.raises(ValueError, match=rf"LookSAM needs a finite reuse_alpha >= 0, got {value!r}\."):
        LookSAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, reuse_alpha=value)


def test_local_perturbations_cannot_be_reused():
    model = nn.Linear(1, 1)
    model.no_sync = lambda: None
    message = r'LookSAM needs perturbation="global", because processes would drift apart, got "local"'
    with pytest.raises(ValueError, match=message):
        LookSAM(model.parameters(), torch.optim.SGD, perturbation="local", model=model)


def test_reuse_keeps_one_gradient_a_parameter_in_the_state():
    model, loss_function = make_problem(4)
    optimizer = LookSAM(model.parameters(), torch.optim.SGD, interval=2, lr=0.1)
    for _ in range(3):
        optimizer.step(make_closure(optimizer, loss_function))
    states = optimizer.state_dict()["state"]
    assert [list(state) for state in states.values()] == [["sam_orthogonal_gradient"]] * 4
