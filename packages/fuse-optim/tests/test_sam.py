import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse_optim import SAM


def make_problem(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    inputs = torch.randn(16, 4, generator=generator, dtype=dtype)
    targets = torch.randn(16, 1, generator=generator, dtype=dtype)
    return model, lambda: nn.functional.mse_loss(model(inputs), targets)


def make_closure(model, loss_function, calls=None):
    def closure():
        model.zero_grad()
        loss = loss_function()
        loss.backward()
        if calls is not None:
            calls.append(loss.item())
        return loss

    return closure


def reference_step(model, loss_function, base, rho):
    """The paper's algorithm 1, written with plain tensors."""
    params = list(model.parameters())
    grads = torch.autograd.grad(loss_function(), params)
    norm = sum((grad**2).sum() for grad in grads).sqrt()
    weights = [parameter.detach().clone() for parameter in params]
    with torch.no_grad():
        for parameter, grad in zip(params, grads, strict=True):
            parameter += rho * grad / norm
    grads = torch.autograd.grad(loss_function(), params)
    with torch.no_grad():
        for parameter, weight, grad in zip(params, weights, grads, strict=True):
            parameter.copy_(weight)
            parameter.grad = grad
    base.step()


BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rho=st.sampled_from([0.0, 0.05, 1.0]), base=st.sampled_from(sorted(BASES)))
def test_steps_are_those_of_the_paper(seed, rho, base):
    optimizer_class, options = BASES[base]
    model, loss_function = make_problem(seed)
    expected, expected_loss = make_problem(seed)
    optimizer = SAM(model.parameters(), optimizer_class, rho=rho, **options)
    reference = optimizer_class(expected.parameters(), **options)
    for _ in range(3):
        optimizer.step(make_closure(model, loss_function))
        reference_step(expected, expected_loss, reference, rho)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_loss_returned_is_that_at_the_weights():
    model, loss_function = make_problem(0)
    before, calls = loss_function().item(), []
    loss = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1).step(make_closure(model, loss_function, calls))
    assert loss.item() == before == calls[0]
    assert len(calls) == 2
    assert calls[1] > before


def test_weights_come_back_bit_by_bit():
    model, loss_function = make_problem(1, torch.float32)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.0).step(make_closure(model, loss_function))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


def test_weights_come_back_when_the_closure_raises():
    model, loss_function = make_problem(2)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    calls = []
    closure = make_closure(model, loss_function, calls)

    def failing():
        if calls:
            raise RuntimeError("out of memory")
        return closure()

    with pytest.raises(RuntimeError, match="out of memory"):
        SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1).step(failing)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


def test_a_parameter_without_a_gradient_in_the_second_pass_comes_back():
    used, sometimes = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM([used, sometimes], torch.optim.SGD, rho=0.3, lr=0.1)
    passes = []

    def closure():
        optimizer.zero_grad()
        loss = used.square().sum() + (0 if passes else sometimes.sum())
        passes.append(1)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(sometimes.detach(), torch.ones(2))


def test_a_gradient_of_zero_does_not_make_nan():
    weight = nn.Parameter(torch.ones(2))
    optimizer = SAM([weight], torch.optim.SGD, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (weight * 0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(weight.detach(), torch.ones(2))


@pytest.mark.parametrize("base", sorted(BASES))
def test_resuming_equals_going_on(base):
    optimizer_class, options = BASES[base]
    model, loss_function = make_problem(3)
    optimizer = SAM(model.parameters(), optimizer_class, rho=0.1, **options)
    closure = make_closure(model, loss_function)
    for _ in range(3):
        optimizer.step(closure)

    resumed, resumed_loss = make_problem(3)
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = SAM(resumed.parameters(), optimizer_class, rho=0.9, **options)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed_optimizer.param_groups[0]["rho"] == 0.1
    for _ in range(3):
        optimizer.step(closure)
        resumed_optimizer.step(make_closure(resumed, resumed_loss))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_the_state_holds_no_copy_of_the_weights():
    model, loss_function = make_problem(4)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    optimizer.step(make_closure(model, loss_function))
    assert not any(
        isinstance(v, torch.Tensor) for state in optimizer.state_dict()["state"].values() for v in state.values()
    )


def test_learning_rate_schedulers_reach_the_base_optimizer():
    model, loss_function = make_problem(5)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step(make_closure(model, loss_function))
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.5


def test_small_gradients_of_half_precision_weights_do_not_overflow():
    weight = nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = SAM([weight], torch.optim.SGD, rho=0.05, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (weight * 1e-7).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.isfinite(weight).all()


def test_it_pickles_with_its_base_optimizer():
    optimizer = SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9)
    loaded = pickle.loads(pickle.dumps(optimizer))
    assert isinstance(loaded.base_optimizer, torch.optim.SGD)
    assert loaded.param_groups is loaded.base_optimizer.param_groups
    assert loaded.param_groups[0]["rho"] == 0.2


def test_it_loads_the_state_of_the_base_optimizer_alone():
    weight = nn.Parameter(torch.ones(1))
    optimizer = SAM([weight], torch.optim.SGD, rho=0.2, lr=0.1)
    optimizer.load_state_dict(torch.optim.SGD([weight], lr=0.7).state_dict())
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["rho"]) == (0.7, 0.2)


def test_groups_have_a_rho_of_their_own():
    first, second = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    optimizer = SAM([{"params": [first], "rho": 0.0}, {"params": [second]}], torch.optim.SGD, rho=5.0, lr=0.1)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append((first.item(), second.item()))
        loss = (first.square() + second.square()).sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == [(3.0, 4.0), (3.0, 8.0)]  # the gradient's norm is 5, so the second group moves by 5 * 4 / 5


def test_groups_can_be_added_later():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SAM([first], torch.optim.SGD, rho=0.1, lr=0.1)
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert [group["lr"] for group in optimizer.base_optimizer.param_groups] == [0.1, 0.2]


def test_the_closure_may_run_under_no_grad():
    model, loss_function = make_problem(6)
    with torch.no_grad():
        SAM(model.parameters(), torch.optim.SGD, lr=0.1).step(make_closure(model, loss_function))


def test_a_closure_is_needed():
    with pytest.raises(ValueError, match=r"SAM\.step needs a closure.*optimizer\.step\(closure\)"):
        SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1).step()


def test_a_closure_must_call_backward():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"found no gradient after the first pass\. The closure must call backward"):
        SAM([weight], torch.optim.SGD, lr=0.1).step(lambda: weight.sum())


@pytest.mark.parametrize("params", [[{"params": [nn.Parameter(torch.ones(1))], "rho": -0.1}], None])
def test_a_negative_rho_is_rejected(params):
    with pytest.raises(ValueError, match=r"SAM needs a finite rho >= 0, got -0\.1"):
        SAM(params or [nn.Parameter(torch.ones(1))], torch.optim.SGD, rho=0.05 if params else -0.1, lr=0.1)


def test_a_negative_rho_of_a_later_group_is_rejected():
    optimizer = SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"SAM needs a finite rho >= 0, got -1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": -1})
