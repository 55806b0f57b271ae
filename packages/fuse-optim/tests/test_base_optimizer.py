import warnings
from functools import partial

import pytest
import torch
from small_network import equal, make_closure, make_problem
from torch import nn

from fuse_optim import SAM, MomentumSAM


def make(base=torch.optim.SGD, **options):
    return SAM([nn.Parameter(torch.ones(1))], base, **options)


BASES = {
    "class": lambda params: (params, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "factory": lambda params: (params, partial(torch.optim.SGD, momentum=0.9), {"lr": 0.1}),
    "function": lambda params: (params, lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9), {}),
    "instance": lambda params: (params, torch.optim.SGD(params, lr=0.1, momentum=0.9), {}),
    "groups of an instance": lambda params: (
        (optimizer := torch.optim.SGD(params, lr=0.1, momentum=0.9)).param_groups,
        optimizer,
        {},
    ),
}


@pytest.mark.parametrize("base", sorted(BASES))
def test_the_base_optimizer_may_be_a_class_a_function_or_an_optimizer(base):
    model, loss_function = make_problem(0)
    expected, expected_loss = make_problem(0)
    params, base_optimizer, options = BASES[base](list(model.parameters()))
    optimizer = SAM(params, base_optimizer, rho=0.3, **options)
    reference = SAM(expected.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.step(make_closure(optimizer, loss_function))
        reference.step(make_closure(reference, expected_loss))
    assert equal(list(model.parameters()), list(expected.parameters()))
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert optimizer.defaults["lr"] == 0.1 or base == "function"
    assert optimizer.defaults["sam_rho"] == 0.3


def test_the_groups_of_an_optimizer_keep_their_settings():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    base = torch.optim.SGD([{"params": [first], "rho": 0.3}, {"params": [second], "adaptive": True}])
    optimizer = SAM([first, second], base, rho=0.1)
    assert [(group["sam_rho"], group["sam_adaptive"]) for group in optimizer.param_groups] == [
        (0.3, False),
        (0.1, True),
    ]


def test_the_callers_groups_are_not_changed():
    group = {"params": [nn.Parameter(torch.ones(1))], "rho": 0.3}
    later = {"params": [nn.Parameter(torch.ones(1))]}
    SAM([group], torch.optim.SGD).add_param_group(later)
    assert (group.keys(), later.keys()) == ({"params": 0, "rho": 0}.keys(), {"params": 0}.keys())


def test_parameters_may_be_named():
    model, loss_function = make_problem(0)
    optimizer = SAM(model.named_parameters(), torch.optim.SGD, lr=0.1)
    optimizer.step(make_closure(optimizer, loss_function))
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_groups_can_be_added_later():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SAM([first], torch.optim.SGD, rho=0.1, lr=0.1, interval=2)
    closure = make_closure(optimizer, lambda: (first * second).sum())
    optimizer.step(closure)
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    assert [group["sam_rho"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert [group["lr"] for group in optimizer.base_optimizer.param_groups] == [0.1, 0.2]
    optimizer.step(closure)
    assert [group["sam_steps"] for group in optimizer.param_groups] == [2, 2]
    assert second != 1


def test_learning_rate_schedulers_reach_the_base_optimizer_without_a_warning():
    model, loss_function = make_problem(5)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    optimizer.step(make_closure(optimizer, loss_function))
    before = optimizer.base_optimizer.param_groups[0]["lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    group = optimizer.base_optimizer.param_groups[0]
    assert group["lr"] == scheduler.get_last_lr()[0] > before
    assert group["momentum"] < 0.95


class AsksForAClosure(torch.optim.SGD):
    def step(self, closure=None):
        if closure is None:
            raise ValueError("a closure, please")
        closure()
        super().step()


class SecondOrder(torch.optim.SGD):
    def step(self, closure=None):
        self.curvature()
        super().step()

    def curvature(self):
        params = self.param_groups[0]["params"]
        return torch.autograd.grad([p.grad for p in params], params, params)


class InheritsSecondOrder(SecondOrder):
    def step(self, closure=None):
        return super().step(closure)


class Wraps(torch.optim.SGD):
    """As Lookahead does."""

    def __init__(self, params):
        super().__init__(params)
        self.optimizer = SecondOrder(params)


class AsksForATrueClosure(torch.optim.SGD):
    def step(self, closure=None):
        if not closure:
            raise ValueError("a closure, please")
        closure()
        super().step()


class TakesNoClosure(torch.optim.SGD):
    def step(self, closure=None):
        assert closure is None, "no closure, please"
        super().step()


class Says(torch.optim.SGD):
    """Mentions what others need, and needs nothing."""

    def step(self, closure=None):
        loss = None
        if closure is not None:
            loss = closure()
        torch.autograd.graph.increment_version(self.param_groups[0]["params"])
        super().step()
        return loss


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (torch.optim.LBFGS, "LBFGS evaluates a closure"),
        (AsksForAClosure, "AsksForAClosure evaluates a closure"),
        (partial(SAM, base_optimizer=torch.optim.SGD), "SAM perturbs the weights itself"),
        (partial(MomentumSAM, base_optimizer=torch.optim.Adam), "MomentumSAM perturbs the weights itself"),
        (AsksForATrueClosure, "AsksForATrueClosure evaluates a closure"),
        (SecondOrder, "SecondOrder differentiates the gradients again"),
        (InheritsSecondOrder, "InheritsSecondOrder differentiates the gradients again"),
        (Wraps, "Wraps wraps SecondOrder, which differentiates the gradients again"),
    ],
    ids=str,
)
def test_base_optimizers_that_need_more_than_gradients_are_refused(base, reason):
    with pytest.raises(ValueError, match=f"takes a step from gradients alone, but {reason}"):
        make(base)
    with pytest.raises(ValueError, match=reason):
        SAM([weight := nn.Parameter(torch.ones(1))], base([weight]))


@pytest.mark.parametrize("base", [Says, TakesNoClosure])
def test_a_base_optimizer_that_takes_an_optional_closure_or_none_is_accepted(base):
    optimizer = make(base)
    weight = optimizer.param_groups[0]["params"][0]
    optimizer.step(make_closure(optimizer, lambda: weight.square().sum()))
    assert weight.item() < 1.0


@pytest.mark.parametrize("base", ["SGD", lambda params: list(params), None])
def test_base_optimizers_must_be_optimizers(base):
    with pytest.raises(TypeError, match=r"SAM needs a base_optimizer that is an optimizer, its class, or a function"):
        make(base)


def test_an_optimizer_takes_no_further_arguments():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=r"got an optimizer that is already made, SGD, and arguments for it: lr, mom"):
        SAM([weight], torch.optim.SGD([weight]), lr=0.1, momentum=0.9)


def test_an_optimizer_must_have_the_same_parameters():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    with pytest.raises(ValueError, match=r"same parameters: SAM got 2, SGD has 2, and 1 are in both\. Pass base_optim"):
        SAM(weights[:2], torch.optim.SGD(weights[1:]))


def test_groups_of_an_optimizer_are_its_own():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(
        ValueError, match=r"the groups are those of the optimizer.* Set rho, .* in base_optimizer\.param"
    ):
        SAM([{"params": [weight], "rho": 0.3}], torch.optim.SGD([weight]))
