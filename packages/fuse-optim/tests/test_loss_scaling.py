"""The recipe with a GradScaler: one unscaling, infinities in either pass, one update."""

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM, LookSAM

SCALE = 2.0**10


def make(kind=SAM, scaler_enabled=True, **options):
    model, loss_function = make_problem(0, torch.float32)
    optimizer = kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.05, momentum=0.9, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1000, enabled=scaler_enabled)
    return model, loss_function, optimizer, scaler


def scaled_closure(optimizer, scaler, loss_function, overflow_in=None, calls=None):
    calls = [] if calls is None else calls

    def closure():
        optimizer.zero_grad()
        loss = loss_function()
        calls.append(loss)
        scaler.scale(loss).backward()
        if len(calls) == overflow_in:
            optimizer.param_groups[0]["params"][1].grad[0] = float("inf")
        return loss

    return closure


def step_by_hand(optimizer, scaler, loss_function, overflow_in=None, clip=False):
    closure = scaled_closure(optimizer, scaler, loss_function, overflow_in, calls := [])
    closure()
    optimizer.first_step(zero_grad=True, grad_scaler=scaler)
    closure()
    if clip:
        scaler.unscale_(optimizer.base_optimizer)
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.5)
    optimizer.second_step(zero_grad=True, grad_scaler=scaler)
    assert len(calls) == 2


def step_with_closure(optimizer, scaler, loss_function, overflow_in=None):
    optimizer.step(scaled_closure(optimizer, scaler, loss_function, overflow_in), grad_scaler=scaler)


@pytest.mark.parametrize("take_step", [step_with_closure, step_by_hand])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(SAM, {}), (SAM, {"adaptive": True}), (LookSAM, {"interval": 2}), (SAM, {"foreach": False})],
    ids=str,
)
def test_steps_are_those_without_scaling(kind, options, take_step):
    model, loss_function, optimizer, scaler = make(kind, **options)
    expected, expected_loss, expected_optimizer, _ = make(kind, **options)
    for _ in range(4):
        take_step(optimizer, scaler, loss_function)
        scaler.update()
        expected_optimizer.step(make_closure(expected_optimizer, expected_loss))
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert scaler.get_scale() == SCALE


@pytest.mark.parametrize("take_step", [step_with_closure, step_by_hand])
@pytest.mark.parametrize("overflow_in", [1, 2])
@pytest.mark.parametrize("kind", [SAM, LookSAM])
def test_an_infinite_gradient_in_either_pass_skips_the_step(kind, overflow_in, take_step):
    model, loss_function, optimizer, scaler = make(kind, interval=1)
    take_step(optimizer, scaler, loss_function)
    scaler.update()
    weights = weights_of(model)
    state = [{key: value.clone() for key, value in one.items()} for one in optimizer.state.values()]
    take_step(optimizer, scaler, loss_function, overflow_in)
    scaler.update()
    assert scaler.get_scale() == SCALE / 2
    assert equal(list(model.parameters()), weights)
    for before, after in zip(state, optimizer.state.values(), strict=True):
        assert equal(list(before.values()), list(after.values()))
    take_step(optimizer, scaler, loss_function)  # and training goes on
    scaler.update()
    assert scaler.get_scale() == SCALE / 2
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert not equal(list(model.parameters()), weights)


def test_an_infinite_gradient_in_the_first_pass_spares_the_second():
    _, loss_function, optimizer, scaler = make()
    calls = []
    optimizer.step(scaled_closure(optimizer, scaler, loss_function, 1, calls), grad_scaler=scaler)
    assert len(calls) == 1


def test_an_infinite_gradient_in_a_step_without_a_second_pass_skips_it():
    model, loss_function, optimizer, scaler = make(start_step=5)
    weights = weights_of(model)
    step_with_closure(optimizer, scaler, loss_function, 1)
    scaler.update()
    assert equal(list(model.parameters()), weights)
    assert scaler.get_scale() == SCALE / 2


@pytest.mark.parametrize("overflow_in", [None, 1, 2])
def test_gradients_can_be_unscaled_and_clipped_before_the_second_step(overflow_in):
    model, loss_function, optimizer, scaler = make()
    expected, expected_loss, expected_optimizer, _ = make()
    weights = weights_of(model)
    step_by_hand(optimizer, scaler, loss_function, overflow_in, clip=True)
    scaler.update()
    if overflow_in is not None:
        assert equal(list(model.parameters()), weights)
        return

    def clipped():
        loss = make_closure(expected_optimizer, expected_loss)()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        return loss

    expected_optimizer.step(clipped)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("take_step", [step_with_closure, step_by_hand])
def test_a_scaler_that_is_switched_off_changes_nothing(take_step):
    model, loss_function, optimizer, scaler = make(scaler_enabled=False)
    expected, expected_loss, expected_optimizer, _ = make()
    take_step(optimizer, scaler, loss_function)
    scaler.update()
    expected_optimizer.step(make_closure(expected_optimizer, expected_loss))
    assert equal(list(model.parameters()), list(expected.parameters()))


def test_unscaling_the_gradients_of_sam_itself_is_refused():
    _, loss_function, optimizer, scaler = make()
    closure = scaled_closure(optimizer, scaler, loss_function)
    closure()
    optimizer.first_step(zero_grad=True, grad_scaler=scaler)
    closure()
    scaler.unscale_(optimizer)
    with pytest.raises(
        RuntimeError, match=r"unscale_ was called with the SAM.* Call scaler\.unscale_\(optimizer\.base_optimizer\)"
    ):
        optimizer.second_step(grad_scaler=scaler)


def test_clipping_in_a_hook_of_the_base_optimizer_sees_unscaled_gradients():
    model, loss_function, optimizer, scaler = make()
    norms = []
    optimizer.base_optimizer.register_step_pre_hook(
        lambda *_: norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    )
    step_with_closure(optimizer, scaler, loss_function)
    expected, expected_loss, plain, _ = make()
    plain.step(make_closure(plain, expected_loss))
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad * (0.5 / norms[0]), rtol=1e-5, atol=1e-7)


def test_the_scale_is_lowered_when_only_the_first_pass_overflowed_also_with_clipping():
    model, loss_function, optimizer, scaler = make()
    before = weights_of(model)
    step_by_hand(optimizer, scaler, loss_function, overflow_in=1, clip=True)
    scaler.update()
    assert scaler.get_scale() == SCALE / 2
    assert equal(list(model.parameters()), before)


@pytest.mark.parametrize("kind", [SAM, LookSAM])
@pytest.mark.parametrize("take_step", [step_with_closure, step_by_hand])
@pytest.mark.parametrize("overflow_in", [1, 2])
def test_the_perturbed_pass_of_a_skipped_step_is_due_again(kind, take_step, overflow_in):
    _, loss_function, optimizer, scaler = make(kind, interval=3)
    take_step(optimizer, scaler, loss_function, overflow_in)
    scaler.update()
    assert optimizer.second_pass_is_due
    take_step(optimizer, scaler, loss_function)
    scaler.update()
    assert not optimizer.second_pass_is_due
    assert optimizer.param_groups[0]["sam_steps"] == 1


def test_float16_autocast_with_a_scale_that_overflows_at_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    inputs = torch.randn(32, 8)
    targets = inputs[:, :1]
    optimizer = SAM(model.parameters(), torch.optim.Adam, rho=0.05, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    losses = []

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.mse_loss(model(inputs).float(), targets)
        scaler.scale(loss).backward()
        return loss

    for _ in range(40):
        losses.append(optimizer.step(closure, grad_scaler=scaler).item())
        scaler.update()
    assert scaler.get_scale() < 2.0**24
    assert losses[-1] < 0.5 * losses[0]
