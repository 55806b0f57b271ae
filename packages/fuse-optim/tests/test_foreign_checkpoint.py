import copy
import warnings

import pytest
import torch
from small_network import make_closure
from torch import nn

from fuse_optim import SAM


def davda54_state_dict(base_state):
    """What SAM implementations write that keep a copy of each weight in the state, as `old_p`."""
    state = {0: {"old_p": torch.full((1,), 9.0), **base_state}}
    group = {"rho": 2.0, "adaptive": True, "lr": 0.7, "momentum": 0.9, "dampening": 0, "weight_decay": 0.1}
    group |= {"nesterov": False, "maximize": False, "foreach": None, "differentiable": False, "fused": None}
    return {"state": state, "param_groups": [{**group, "params": [0]}]}


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_a_checkpoint_of_copies_alone_gives_its_settings_and_says_what_it_lacks(base):
    weight = nn.Parameter(torch.ones(1))
    optimizer = SAM([weight], base, lr=0.1)
    state_dict = davda54_state_dict({})
    if base is torch.optim.Adam:
        state_dict["param_groups"] = optimizer.state_dict()["param_groups"]
    kept = copy.deepcopy(state_dict)
    with pytest.warns(UserWarning, match=r"holds copies of the weights but no state of the base optimizer"):
        optimizer.load_state_dict(state_dict)
    assert state_dict == kept
    if base is torch.optim.SGD:
        group = optimizer.base_optimizer.param_groups[0]
        assert (group["sam_rho"], group["sam_adaptive"], group["lr"], group["momentum"]) == (2.0, True, 0.7, 0.9)
    optimizer.step(make_closure(optimizer, lambda: weight.square().sum()))
    assert "old_p" not in optimizer.state[weight]


def test_a_checkpoint_with_copies_beside_the_state_loses_only_the_copies():
    weight = nn.Parameter(torch.ones(1))
    optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(davda54_state_dict({"momentum_buffer": torch.full((1,), 3.0)}))
    assert list(optimizer.state[weight]) == ["momentum_buffer"]
