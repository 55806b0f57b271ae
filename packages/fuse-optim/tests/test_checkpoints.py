import copy
import io
import pickle

import pytest
import torch
from small_network import equal, make_closure, make_problem
from torch import nn

from fuse_optim import SAM, LookSAM

BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
}
OPTIONS = {
    "SAM": (SAM, {}),
    "ASAM": (SAM, {"adaptive": True, "adaptive_eta": 0.01}),
    "interval": (SAM, {"interval": 3, "start_step": 1}),
    "LookSAM": (LookSAM, {"interval": 3}),
}


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("steps", [2, 4])
def test_resuming_equals_going_on(steps, base, options, dtype):
    optimizer_class, base_options = BASES[base]
    kind, settings = OPTIONS[options]
    model, loss_function = make_problem(3, dtype)
    optimizer = kind(model.parameters(), optimizer_class, rho=0.1, **settings, **base_options)
    closure = make_closure(optimizer, loss_function)
    for _ in range(steps):
        optimizer.step(closure)

    resumed, resumed_loss = make_problem(3, dtype)
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = kind(resumed.parameters(), optimizer_class, rho=0.9, **settings, **base_options)
    resumed_optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    calls, resumed_calls = [], []
    for _ in range(5):
        optimizer.step(make_closure(optimizer, loss_function, calls))
        resumed_optimizer.step(make_closure(resumed_optimizer, resumed_loss, resumed_calls))
    assert calls == resumed_calls
    assert equal(list(model.parameters()), list(resumed.parameters()))


def test_the_settings_of_groups_are_resumed():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "rho": 0.3, "adaptive": True}, {"params": weights[1:], "adaptive_eta": 0.01}]
    state_dict = SAM(groups, torch.optim.SGD, rho=0.1, lr=0.5).state_dict()
    optimizer = SAM([{"params": weights[:1]}, {"params": weights[1:]}], torch.optim.SGD, lr=0.1)
    optimizer.load_state_dict(state_dict)
    settings = [
        (g["sam_rho"], g["sam_adaptive"], g["sam_adaptive_eta"], g["lr"]) for g in optimizer.base_optimizer.param_groups
    ]
    assert settings == [(0.3, True, 0.0, 0.5), (0.1, False, 0.01, 0.5)]


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"interval": 2}])
@pytest.mark.parametrize("base", sorted(BASES))
def test_the_state_is_the_base_optimizers_and_nothing_else(base, options):
    optimizer_class, base_options = BASES[base]
    model, loss_function = make_problem(4)
    optimizer = SAM(model.parameters(), optimizer_class, **options, **base_options)
    plain = optimizer_class(make_problem(4)[0].parameters(), **base_options)
    optimizer.step(make_closure(optimizer, loss_function))
    for parameter in plain.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    plain.step()
    ours, theirs = optimizer.state_dict(), plain.state_dict()
    assert ours["state"].keys() == theirs["state"].keys()
    assert all(ours["state"][index].keys() == theirs["state"][index].keys() for index in theirs["state"])
    assert ours["param_groups"][0].keys() - theirs["param_groups"][0].keys() == {
        "sam_rho",
        "sam_adaptive",
        "sam_adaptive_eta",
        "sam_steps",
    }


def test_it_loads_the_state_of_the_base_optimizer_alone_and_keeps_its_own_settings():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SAM([{"params": [first], "rho": 0.3}, {"params": [second]}], torch.optim.Adam, rho=0.2, lr=0.1)
    plain = torch.optim.Adam([{"params": [first]}, {"params": [second]}], lr=0.7)
    first.grad = second.grad = torch.ones(1)
    plain.step()
    optimizer.load_state_dict(plain.state_dict())
    assert [(group["lr"], group["sam_rho"]) for group in optimizer.param_groups] == [(0.7, 0.3), (0.7, 0.2)]
    assert optimizer.base_optimizer.state[first]["exp_avg"] == plain.state[first]["exp_avg"]
    optimizer.step(make_closure(optimizer, lambda: (first * second).sum()))


def test_groups_stay_shared_when_the_base_optimizer_itself_is_loaded():
    weight = nn.Parameter(torch.ones(1))
    original = SAM([weight], torch.optim.SGD, rho=0.3, lr=0.1)
    for optimizer in (original, copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        optimizer.base_optimizer.load_state_dict(torch.optim.SGD([weight], lr=0.7).state_dict())
        assert optimizer.param_groups is optimizer.base_optimizer.param_groups
        assert optimizer.state is optimizer.base_optimizer.state
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["sam_rho"]) == (0.7, 0.3)


class LoadsWithoutHooks(torch.optim.SGD):
    """As optimizers of other libraries do that keep their state in eight bits."""

    def load_state_dict(self, state_dict):
        groups = [{**group, "params": self.param_groups[0]["params"]} for group in state_dict["param_groups"]]
        self.__setstate__({"state": state_dict["state"], "param_groups": groups})


def test_groups_are_shared_after_loading_a_base_optimizer_that_calls_no_hooks():
    optimizer = SAM([nn.Parameter(torch.ones(1))], LoadsWithoutHooks, lr=0.1)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {}})
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups


def test_it_pickles_with_its_base_optimizer_and_options():
    weight = nn.Parameter(torch.ones(1))
    options = {"interval": 2, "reuse_alpha": 0.3, "start_step": 1, "replay_rng": True}
    optimizer = LookSAM([weight], torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9, **options)
    loaded = pickle.loads(pickle.dumps(optimizer))
    assert isinstance(loaded.base_optimizer, torch.optim.SGD)
    assert loaded.param_groups is loaded.base_optimizer.param_groups
    assert loaded.state is loaded.base_optimizer.state
    assert loaded.param_groups[0]["sam_rho"] == 0.2
    assert {name: getattr(loaded, name) for name in options} == options
    loaded.step(make_closure(loaded, lambda: loaded.param_groups[0]["params"][0].square().sum()))


def test_a_deep_copy_trains_alike():
    model, loss_function = make_problem(5)
    optimizer = SAM(model.parameters(), torch.optim.Adam, lr=0.1)
    closure = make_closure(optimizer, loss_function)
    optimizer.step(closure)
    copied_model, copied_optimizer = copy.deepcopy((model, optimizer))
    inputs = torch.ones(2, 4, dtype=torch.float64)
    for one, its_optimizer in ((model, optimizer), (copied_model, copied_optimizer)):
        its_optimizer.step(make_closure(its_optimizer, lambda one=one: one(inputs).square().sum()))
    assert equal(list(model.parameters()), list(copied_model.parameters()))


class CountsInItsState(torch.optim.Adam):
    """Keeps a counter under a key that is no parameter, as MADGRAD does."""

    def step(self, closure=None):
        super().step()
        self.state["k"] = self.state.get("k", 0) + 1


@pytest.mark.parametrize("kind", [SAM, LookSAM])
def test_a_state_that_is_not_a_parameters_is_saved_and_loaded(kind):
    model, loss_function = make_problem(6)
    optimizer = kind(model.parameters(), CountsInItsState, interval=3)
    closure = make_closure(optimizer, loss_function)
    for _ in range(2):
        optimizer.step(closure)
    resumed, resumed_loss = make_problem(6)
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = kind(resumed.parameters(), CountsInItsState, interval=3)
    resumed_optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    for _ in range(2):
        optimizer.step(closure)
        resumed_optimizer.step(make_closure(resumed_optimizer, resumed_loss))
    assert resumed_optimizer.state["k"] == 4
    assert equal(list(model.parameters()), list(resumed.parameters()))
