"""What PyTorch promises of an optimizer holds for SAM and MomentumSAM, and their base optimizers may be wrappers."""

import copy
from collections import defaultdict

import pytest
import torch
from small_network import equal, make_closure, make_problem
from torch import nn

from fuse_optim import SAM, MomentumSAM

KINDS = [SAM, MomentumSAM]


def make(kind=SAM, base=torch.optim.SGD, **options):
    model, loss_function = make_problem(0)
    defaults = {"lr": 0.05, "momentum": 0.9} if base is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), base, rho=0.1, **defaults, **options)
    return model, optimizer, make_closure(optimizer, loss_function)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_are_assigned_are_the_base_optimizers(kind):
    model, optimizer, closure = make(kind)
    optimizer.step(closure)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.param_groups = [{**group, "lr": 0.0} for group in optimizer.param_groups]
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    optimizer.step(closure)
    assert equal(list(model.parameters()), before)


def test_settings_and_steps_are_filled_in_where_groups_are_assigned_without_them():
    _, optimizer, closure = make()
    optimizer.param_groups[0]["sam_rho"] = 0.7
    optimizer.step(closure)
    plain = [{k: v for k, v in group.items() if not k.startswith("sam_")} for group in optimizer.param_groups]
    optimizer.param_groups = plain
    assert [(group["sam_rho"], group["sam_steps"]) for group in optimizer.param_groups] == [(0.7, 1)]


def test_a_group_replaced_in_the_list_keeps_settings_and_steps():
    _, optimizer, closure = make(interval=2)
    optimizer.param_groups[0]["sam_rho"] = 0.7
    optimizer.step(closure)
    group = optimizer.param_groups[0]
    optimizer.param_groups[0] = {key: value for key, value in group.items() if not key.startswith("sam_")}
    assert (optimizer.param_groups[0]["sam_rho"], optimizer.param_groups[0]["sam_steps"]) == (0.7, 1)
    assert not optimizer.second_pass_is_due


@pytest.mark.parametrize("key", ["sam_rho", "sam_steps"])
def test_a_setting_that_is_removed_from_a_group_is_filled_in(key):
    _, optimizer, closure = make()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    optimizer.step(closure)
    for group in optimizer.param_groups:
        group.pop(key)
        optimizer.step(closure)
    assert [(group["sam_rho"], group["sam_steps"]) for group in optimizer.param_groups] == [(0.1, 3)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_are_cleared_and_added_again_keep_the_number_of_steps(kind):
    model, optimizer, closure = make(kind)
    optimizer.param_groups[0]["sam_rho"] = 0.7
    optimizer.step(closure)
    optimizer.param_groups.clear()
    assert optimizer.param_groups == []
    optimizer.add_param_group({"params": list(model.parameters())[:2]})
    optimizer.add_param_group({"params": list(model.parameters())[2:], "rho": 0.5})
    assert [(group["sam_rho"], group["sam_steps"]) for group in optimizer.param_groups] == [(0.1, 1), (0.5, 1)]
    optimizer.step(closure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_radius_that_is_set_later_is_checked_in_the_step(kind, value):
    _, optimizer, closure = make(kind)
    optimizer.step(closure)
    optimizer.param_groups[0]["sam_rho"] = value
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs a finite rho >= 0, got {value}\."):
        optimizer.step(closure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("option", "needed"), [("rho", "a finite rho >= 0"), ("start_fraction", "a start_fraction from 0 to 1")]
)
def test_a_number_that_yaml_read_as_a_string_is_named(kind, option, needed):
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs {needed}, got '5e-2'\."):
        kind([weight], torch.optim.SGD, lr=0.1, momentum=0.9, **{option: "5e-2"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, -3, 2.5, float("inf")])
def test_a_number_of_steps_is_checked_at_construction_and_when_it_is_set_later(kind, value):
    message = rf"{kind.__name__} needs an integer total_steps > 0, got {value}\."
    with pytest.raises(ValueError, match=message):
        make(kind, start_fraction=0.5, total_steps=value)
    _, optimizer, closure = make(kind, start_fraction=0.5)
    optimizer.total_steps = value
    with pytest.raises(ValueError, match=message):
        optimizer.step(closure)


def test_a_state_that_is_assigned_is_the_base_optimizers():
    _, optimizer, closure = make()
    optimizer.step(closure)
    optimizer.state = defaultdict(dict)
    assert optimizer.base_optimizer.state is optimizer.state
    assert not optimizer.base_optimizer.state


def test_a_radius_written_to_a_group_by_its_public_name_is_used():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer, seen = SAM([weight], torch.optim.SGD, lr=0.0), []
    optimizer.param_groups[0]["rho"] = 5.0
    optimizer.step(make_closure(optimizer, lambda: seen.append(weight.tolist()) or weight.square().sum()))
    assert seen == [[3.0, 4.0], [6.0, 8.0]]
    optimizer.param_groups[0]["rho"] = -1.0
    with pytest.raises(ValueError, match=r"SAM needs a finite rho >= 0, got -1\.0"):
        _ = optimizer.param_groups


@pytest.mark.parametrize("made", [False, True])
def test_the_rho_of_adadelta_is_its_own(made):
    model, loss_function = make_problem(0)
    expected, expected_loss = make_problem(0)
    params = list(model.parameters())
    base = torch.optim.Adadelta(params, lr=1.0) if made else torch.optim.Adadelta
    optimizer = SAM(params, base, rho=1e-12, **({} if made else {"lr": 1.0}))
    plain = torch.optim.Adadelta(expected.parameters(), lr=1.0)
    assert [(group["rho"], group["sam_rho"]) for group in optimizer.param_groups] == [(0.9, 1e-12)]
    for _ in range(20):
        optimizer.step(make_closure(optimizer, loss_function))
        plain.step(make_closure(plain, expected_loss))
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_group_may_have_its_own_radius_over_adadelta():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = SAM([{"params": weights[:1], "rho": 0.3}], torch.optim.Adadelta)
    optimizer.add_param_group({"params": weights[1:], "rho": 0.4})
    assert [(group["rho"], group["sam_rho"]) for group in optimizer.param_groups] == [(0.9, 0.3), (0.9, 0.4)]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_state_dicts_are_called_once_each_and_may_change_them(kind):
    _, optimizer, _ = make(kind)
    calls = []

    def record(name, result=None):
        return lambda own, *given: calls.append((name, own is optimizer)) or (result(*given) if result else None)

    optimizer.register_state_dict_pre_hook(record("state_dict pre"))
    optimizer.register_state_dict_post_hook(record("state_dict post", lambda saved: {**saved, "more": 1}))
    optimizer.register_load_state_dict_pre_hook(
        record("load pre", lambda saved: {k: v for k, v in saved.items() if k != "more"})
    )
    optimizer.register_load_state_dict_post_hook(record("load post"))
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert calls == [(name, True) for name in ("state_dict pre", "state_dict post", "load pre", "load post")]


def test_hooks_of_the_step_are_called_once_in_either_kind_of_loop():
    _, optimizer, closure = make()
    calls = []
    optimizer.register_step_pre_hook(lambda own, args, kwargs: calls.append(("pre", own is optimizer)))
    optimizer.register_step_post_hook(lambda own, args, kwargs: calls.append(("post", own is optimizer)))
    optimizer.step(closure)
    once = [("pre", True), ("post", True)]
    assert calls == once
    closure()
    optimizer.first_step(zero_grad=True)
    closure()
    assert calls == once
    optimizer.second_step()
    assert calls == 2 * once


class Around(torch.optim.Optimizer):
    """Wraps an optimizer without Optimizer.__init__, as some libraries do."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self._optimizer_step_pre_hooks = {}
        self._optimizer_step_post_hooks = {}
        self.defaults = optimizer.defaults
        self._patch_step_function()

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @property
    def state(self):
        return self.optimizer.state

    def step(self, closure=None):
        self.optimizer.step()

    def state_dict(self):
        return {"inner": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["inner"])

    def add_param_group(self, param_group):
        self.optimizer.add_param_group(param_group)


def around(params):
    return Around(torch.optim.SGD(params, lr=0.05, momentum=0.9))


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_optimizer_may_wrap_another_one(kind):
    model, optimizer, closure = make(kind, around)
    expected, expected_optimizer, expected_closure = make(kind)
    optimizer.step(closure)
    expected_optimizer.step(expected_closure)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        optimizer.step(closure)
        expected_optimizer.step(expected_closure)
    assert equal(list(model.parameters()), list(expected.parameters()))


def test_the_wrappers_of_pytorch_optimizer_work():
    wrappers = pytest.importorskip("pytorch_optimizer")
    for name in ("Lookahead", "OrthoGrad", "TRAC", "ScheduleFreeWrapper"):
        wrapper = getattr(wrappers, name)
        _, optimizer, closure = make(SAM, lambda params, wrapper=wrapper: wrapper(torch.optim.AdamW(params, lr=0.01)))
        if name == "ScheduleFreeWrapper":
            optimizer.base_optimizer.train()
        first, *_, last = [optimizer.step(closure).item() for _ in range(30)]
        assert last < first, name


def test_a_late_start_is_a_fraction_of_all_steps():
    _, optimizer, closure = make(start_fraction=0.75, total_steps=7)
    due = []
    for _ in range(7):
        due.append(optimizer.second_pass_is_due)
        optimizer.step(closure)
    assert due == 6 * [False] + [True]  # 0.75 of 7 is 5.25: the first five steps and a part of the sixth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_fraction": 1.5}, r"SAM needs a start_fraction from 0 to 1, got 1\.5"),
        ({"start_fraction": 0.5, "start_step": 3}, r"SAM needs either start_step or start_fraction, got both"),
        ({"total_steps": 10}, r"SAM needs total_steps only with start_fraction, got 10"),
        ({"norm_over": "layer"}, r"SAM needs norm_over=\"perturbed\" or \"all\", got 'layer'"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    _, optimizer, closure = make(interval=numpy.int64(2), start_step=numpy.int32(1), adaptive_eta=numpy.float32(0.01))
    optimizer.step(closure)
    assert optimizer.second_pass_is_due


def test_a_fraction_without_the_number_of_steps_is_refused_in_the_first_step():
    _, optimizer, closure = make(start_fraction=0.8)
    with pytest.raises(
        RuntimeError, match=r"got start_fraction=0\.8 but no total_steps\. Pass total_steps, with Lightn"
    ):
        optimizer.step(closure)
