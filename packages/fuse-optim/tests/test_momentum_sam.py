import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import MomentumSAM

BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "Nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
}


def make(base="SGD", **options):
    model, loss_function = make_problem(0)
    optimizer_class, base_options = BASES[base]
    return (
        model,
        loss_function,
        MomentumSAM(model.parameters(), optimizer_class, **{"rho": 0.3, **base_options, **options}),
    )


def loop(optimizer, loss_function, steps, seen=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_function()
        loss.backward()
        optimizer.step()
        if seen is not None:
            seen.append(loss.item())


@given(
    seed=st.integers(0, 10_000),
    rho=st.sampled_from([0.0, 0.1, 3.0]),
    momentum=st.sampled_from([0.5, 0.9]),
    start_step=st.integers(0, 2),
)
def test_steps_are_those_of_the_paper(seed, rho, momentum, start_step):
    """Algorithm 1 of Becker et al. on lists of floats."""
    model, loss_function = make_problem(seed)
    expected, expected_loss = make_problem(seed)
    options = {"rho": rho, "lr": 0.05, "momentum": momentum, "start_step": start_step}
    loop(MomentumSAM(model.parameters(), torch.optim.SGD, **options), loss_function, 5)

    parameters = list(expected.parameters())
    weights = [value for p in parameters for value in p.detach().flatten().tolist()]
    velocity = [0.0] * len(weights)
    for step in range(5):
        length = math.sqrt(math.fsum(v * v for v in velocity))
        perturbs = step >= start_step and length > 0
        perturbed = [w - rho * v / length for w, v in zip(weights, velocity, strict=True)] if perturbs else weights
        parts = torch.tensor(perturbed, dtype=torch.float64).split([p.numel() for p in parameters])
        with torch.no_grad():
            for p, part in zip(parameters, parts, strict=True):
                p.copy_(part.view_as(p))
        gradients = torch.autograd.grad(expected_loss(), parameters)
        gradient = [value for g in gradients for value in g.flatten().tolist()]
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        weights = [w - 0.05 * v for w, v in zip(weights, velocity, strict=True)]
    actual = [value for p in model.parameters() for value in p.detach().flatten().tolist()]
    torch.testing.assert_close(
        torch.tensor(actual, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("base", sorted(BASES))
def test_the_gradient_is_taken_at_the_radius_and_the_weights_come_back_bit_by_bit(base):
    model, loss_function, optimizer = make(base)
    loop(optimizer, loss_function, 2)
    before = weights_of(model)
    optimizer.zero_grad()
    moved = torch.cat([(p - w).flatten() for p, w in zip(model.parameters(), before, strict=True)])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.3, dtype=torch.float64))
    optimizer.restore_weights()
    assert equal(list(model.parameters()), before)


@pytest.mark.parametrize("base", sorted(BASES))
def test_a_closure_does_what_the_loop_does(base):
    model, loss_function, optimizer = make(base)
    expected, expected_loss, expected_optimizer = make(base)
    seen, calls = [], []
    loop(expected_optimizer, expected_loss, 4, seen)
    for _ in range(4):
        optimizer.step(make_closure(optimizer, loss_function, calls))
    assert calls == seen
    assert equal(list(model.parameters()), list(expected.parameters()))


@pytest.mark.parametrize("base", sorted(BASES))
def test_resuming_equals_going_on(base):
    model, loss_function, optimizer = make(base)
    loop(optimizer, loss_function, 3)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    resumed, resumed_loss, resumed_optimizer = make(base)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    resumed_optimizer.load_state_dict(state)
    seen, resumed_seen = [], []
    loop(optimizer, loss_function, 3, seen)
    loop(resumed_optimizer, resumed_loss, 3, resumed_seen)
    assert seen == resumed_seen
    assert equal(list(model.parameters()), list(resumed.parameters()))


def test_it_pickles_and_copies_with_its_options_and_trains_alike():
    model, loss_function, optimizer = make("Adam", start_fraction=0.25, total_steps=8)
    loop(optimizer, loss_function, 3)
    inputs = torch.ones(2, 4, dtype=torch.float64)
    both = [(model, optimizer), pickle.loads(pickle.dumps((model, optimizer))), copy.deepcopy((model, optimizer))]
    for own_model, own_optimizer in both:
        assert (own_optimizer.start_fraction, own_optimizer.total_steps) == (0.25, 8)
        loop(own_optimizer, lambda own_model=own_model: own_model(inputs).square().sum(), 2)
        assert equal(list(own_model.parameters()), list(model.parameters()))


def test_the_weights_come_back_when_the_closure_raises():
    model, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    before = weights_of(model)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert equal(list(model.parameters()), before)


def test_groups_have_their_own_radius_and_the_norm_is_over_those_that_move():
    still, moving = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    groups = [{"params": [still], "rho": 0.0}, {"params": [moving], "rho": 2.0}]
    optimizer = MomentumSAM(groups, torch.optim.SGD, lr=0.0, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        values = still.item(), moving.item()
        (still.square() + moving.square()).sum().backward()
        optimizer.step()
    assert values == (3.0, 2.0)  # the momentum points up, so the weight moves down, by the whole radius


def test_a_grad_scaler_takes_it_as_any_optimizer():
    model, loss_function, optimizer = make()
    expected, expected_loss, expected_optimizer = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loop(expected_optimizer, expected_loss, 3)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_function()).backward()
        scaler.step(optimizer)
        scaler.update()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_closure", [False, True])
def test_a_step_that_its_scaler_skips_restores_the_weights_and_is_not_counted(with_closure):
    model, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    before, scaler = weights_of(model), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def closure():
        optimizer.zero_grad()
        assert not equal(list(model.parameters()), before)
        scaler.scale(loss_function()).backward()
        model[0].weight.grad[0] = math.inf

    if not with_closure:
        closure()
    optimizer.step(closure if with_closure else None, grad_scaler=scaler)
    scaler.update()
    assert equal(list(model.parameters()), before)
    assert optimizer.param_groups[0]["sam_steps"] == 2
    assert scaler.get_scale() == 512.0


def test_weights_must_be_restored_if_a_scaler_that_takes_the_step_itself_skips_it():
    model, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    before, scaler = weights_of(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer.zero_grad()
    scaler.scale(loss_function() * math.inf).backward()
    scaler.step(optimizer)
    optimizer.restore_weights()
    assert equal(list(model.parameters()), before)


WRITTEN = r"MomentumSAM cannot restore a weight of shape \(5, 4\): it was written between zero_grad and step"


@pytest.mark.parametrize("method", ["step", "restore_weights"])
def test_weights_that_are_written_while_they_are_perturbed_are_kept_and_told(method):
    model, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    best = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    optimizer.zero_grad()
    model.load_state_dict(best)
    with pytest.raises(RuntimeError, match=WRITTEN):
        getattr(optimizer, method)()
    assert equal(list(model.parameters()), list(best.values()))
    loop(optimizer, loss_function, 1)  # goes on


def test_loading_a_state_restores_perturbed_weights_but_keeps_those_that_were_loaded():
    model, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    before, saved = weights_of(model), optimizer.state_dict()
    optimizer.zero_grad()
    with torch.no_grad():
        model[0].weight.fill_(0.5)
    optimizer.load_state_dict(saved)
    assert equal(list(model.parameters()), [torch.full_like(before[0], 0.5), *before[1:]])


def test_a_forward_pass_that_writes_the_weights_works_with_a_closure():
    torch.manual_seed(0)
    embedding = nn.Embedding(4, 3, max_norm=0.1)
    optimizer = MomentumSAM(embedding.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    losses = [optimizer.step(make_closure(optimizer, lambda: embedding(torch.arange(4)).sum())) for _ in range(3)]
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.parametrize("save", [lambda one: one.state_dict(), copy.deepcopy, pickle.dumps])
def test_nothing_is_saved_while_the_weights_are_perturbed(save):
    _, loss_function, optimizer = make()
    loop(optimizer, loss_function, 2)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"MomentumSAM\.\w+.* was called while the model's weights are perturbed"):
        save(optimizer)
    optimizer.restore_weights()
    save(optimizer)


def test_no_value_is_read_back_from_the_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        batch = torch.empty(5, 3)
    loop(MomentumSAM(model.parameters(), torch.optim.AdamW), lambda: model(batch).square().mean(), 3)


def test_a_loop_that_does_not_call_zero_grad_before_the_forward_pass_is_refused():
    model, loss_function, optimizer = make()
    for _ in range(2):
        model.zero_grad()
        loss_function().backward()
        if optimizer.param_groups[0]["sam_steps"] == 0:
            optimizer.step()
    message = (
        r"MomentumSAM\.step got a gradient that was taken at the weights themselves\. Call optimizer\.zero_grad\(\)"
    )
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()


def test_a_base_optimizer_without_momentum_is_refused():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(
        ValueError, match=r"MomentumSAM needs a base optimizer with momentum, such as SGD with momentum=0"
    ):
        MomentumSAM([weight], torch.optim.SGD, lr=0.1)
    for base in (torch.optim.Adagrad, torch.optim.Adadelta([weight]), torch.optim.Rprop):
        with pytest.raises(ValueError, match=r"the state of \w+ holds neither 'momentum_buffer' nor 'exp_avg'"):
            MomentumSAM([weight], base)


class OnlyWithMoreArguments(torch.optim.Adagrad):
    def __init__(self, params, more):
        super().__init__(params)


def test_a_base_optimizer_that_cannot_be_tried_is_refused_in_the_first_step():
    weight = nn.Parameter(torch.ones(2))
    optimizer = MomentumSAM([weight], OnlyWithMoreArguments, more=1)
    with pytest.raises(RuntimeError, match=r"OnlyWithMoreArguments holds neither 'momentum_buffer' nor 'exp_avg'"):
        loop(optimizer, lambda: weight.sum(), 1)


class StateOfItsOwn(torch.optim.Optimizer):
    """Wraps an optimizer and has a state of its own, as Lookahead does."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure=None):
        self.inner.step()


def test_the_momentum_may_be_that_of_a_wrapped_optimizer():
    results = []
    for wrap in (StateOfItsOwn, lambda inner: inner):
        model, loss_function = make_problem()
        base = wrap(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        loop(MomentumSAM(model.parameters(), base, rho=0.1), loss_function, 3)
        results.append(weights_of(model))
    assert equal(*results)


class SeveralMomenta(torch.optim.SGD):
    """Keeps its momenta in a dict, as AggMo does."""

    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            self.state[param]["momentum_buffer"] = {0.9: param.grad.clone(), 0.99: param.grad.clone()}


def test_momenta_in_a_dict_are_refused_at_construction():
    with pytest.raises(ValueError, match="MomentumSAM needs a base optimizer with momentum, but the state of SeveralM"):
        MomentumSAM([nn.Parameter(torch.ones(2))], SeveralMomenta, lr=0.1, momentum=0.9)


def test_the_momentum_may_be_set_in_the_groups():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [first], "momentum": 0.9}, {"params": [second], "rho": 0.0}]
    optimizer = MomentumSAM(groups, torch.optim.SGD, rho=0.3, lr=0.1)
    loop(optimizer, lambda: (first + second).square().sum(), 1)
    before = first.item()
    optimizer.zero_grad()
    assert first.item() == pytest.approx(before - 0.3)


class ProjectsItsMomentum(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"][:1]


def test_a_momentum_that_is_sparse_or_of_another_shape_is_refused_in_the_first_step():
    for sparse, base, kept in (
        (True, torch.optim.SGD, r"SGD keeps one of shape \(5, 3\) and layout torch\.sparse_coo\. Build embeddings"),
        (False, ProjectsItsMomentum, r"ProjectsItsMomentum keeps one of shape \(1, 3\) and layout torch\.strided"),
    ):
        embedding = nn.Embedding(5, 3, sparse=sparse)
        optimizer = MomentumSAM(embedding.parameters(), base, lr=0.1, momentum=0.9)
        message = r"MomentumSAM needs a dense momentum of its parameter's shape \(5, 3\)\. " + kept
        with pytest.raises(RuntimeError, match=message):
            loop(optimizer, lambda embedding=embedding: embedding(torch.tensor([1])).sum(), 1)


class DrawsRandomNumbers(torch.optim.SGD):
    def step(self, closure=None):
        torch.rand(1)
        super().step()


def test_construction_draws_no_random_numbers():
    before = torch.get_rng_state()
    MomentumSAM([nn.Parameter(torch.ones(1))], DrawsRandomNumbers, lr=0.1, momentum=0.9)
    assert torch.equal(torch.get_rng_state(), before)
