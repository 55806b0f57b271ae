"""The weights are those before the step, bit by bit, whatever happens in the closure."""

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EXCEPTIONS = [RuntimeError("out of memory"), KeyboardInterrupt()]


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_come_back_bit_by_bit(dtype, adaptive, foreach):
    model, loss_function = make_problem(1, dtype)
    with torch.no_grad():
        model[0].weight[0, :2] = torch.tensor([-0.0, 1e-4])  # a signed zero
    weights = weights_of(model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, adaptive=adaptive, foreach=foreach)
    for _ in range(2):
        loss_function().backward()
        optimizer.first_step(zero_grad=True)
        assert not any(equal([now], [before]) for now, before in zip(model.parameters(), weights, strict=True))
        optimizer.restore_weights()
        assert equal(list(model.parameters()), weights)


@pytest.mark.parametrize("exception", EXCEPTIONS, ids=lambda exception: type(exception).__name__)
@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize("after_backward", [False, True])
def test_weights_come_back_when_the_closure_raises(failing_call, after_backward, exception):
    model, loss_function = make_problem(2, torch.float32)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, momentum=0.9)
    weights, calls = weights_of(model), []
    closure = make_closure(optimizer, loss_function, calls)

    def failing():
        if len(calls) == failing_call - 1 and not after_backward:
            raise exception
        loss = closure()
        if len(calls) == failing_call:
            raise exception
        return loss

    with pytest.raises(type(exception)):
        optimizer.step(failing)
    assert equal(list(model.parameters()), weights)
    assert not optimizer.state_dict()["state"]
    optimizer.step(closure)  # and training goes on
    assert not equal(list(model.parameters()), weights)


def test_weights_come_back_when_the_climb_is_interrupted(monkeypatch):
    model, loss_function = make_problem(2, torch.float32)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    weights = weights_of(model)
    monkeypatch.setattr(optimizer, "zero_grad", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    closure = make_closure(model, loss_function)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert equal(list(model.parameters()), weights)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_parameter_without_a_gradient_in_the_second_pass_is_restored_and_kept(set_to_none):
    used, sometimes = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM([used, sometimes], torch.optim.SGD, rho=0.3, lr=0.1)
    seen = []

    def closure():
        optimizer.zero_grad(set_to_none)
        loss = used.square().sum() + (0 if seen else sometimes.sum())
        seen.append(sometimes.detach().clone())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen[1][0] > 1  # it was perturbed
    assert torch.equal(sometimes.detach(), torch.ones(2))
    assert not torch.equal(used.detach(), torch.ones(2))


def test_a_closure_that_does_not_clear_the_gradients_does_not_mix_the_passes():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = SAM([weight], torch.optim.SGD, rho=5.0, lr=0.1)

    def closure():
        loss = weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(weight.detach(), torch.tensor([2.4, 3.2]))  # 0.1 times twice the weights


def test_weights_are_perturbed_in_place():
    model, loss_function = make_problem(3)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    view = model[0].weight.detach().view(-1)
    closure, seen = make_closure(optimizer, loss_function), []
    optimizer.step(lambda: seen.append(view.clone()) or closure())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(view, model[0].weight.detach().flatten())


def test_the_gradients_in_the_first_pass_are_not_changed():
    model, loss_function = make_problem(3)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, adaptive=True, lr=0.1)
    loss_function().backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.first_step()
    assert equal([parameter.grad for parameter in model.parameters()], grads)


def test_buffers_follow_the_weights_to_another_dtype():
    model, loss_function = make_problem(4, torch.float32)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.0)
    optimizer.step(make_closure(optimizer, loss_function))
    model.double()
    weights = weights_of(model)
    inputs = torch.ones(2, 4, dtype=torch.float64)
    optimizer.step(make_closure(optimizer, lambda: model(inputs).square().sum()))
    assert equal(list(model.parameters()), weights)


@pytest.mark.parametrize(("norm_over", "moved"), [("perturbed", 9.0), ("all", 8.0)])
def test_groups_with_radius_zero_are_not_touched(norm_over, moved):
    still, moving = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    groups = [{"params": [still], "rho": 0.0}, {"params": [moving]}]
    optimizer = SAM(groups, torch.optim.SGD, rho=5.0, norm_over=norm_over, lr=0.1)
    seen = []

    def loss_function():
        seen.append((still.item(), moving.item()))
        return (still.square() + moving.square()).sum() / 2

    version = still._version
    loss_function().backward()
    optimizer.first_step(zero_grad=True)
    assert still._version == version
    loss_function().backward()
    # The norm of the second group's gradient is 4, that of both is 5: it moves by 5 * 4 / 4 or by 5 * 4 / 5.
    assert seen == [(3.0, 4.0), (3.0, moved)]
