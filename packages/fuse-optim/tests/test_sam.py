import warnings
from functools import partial

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM


def test_the_loss_returned_is_that_at_the_weights():
    model, loss_function = make_problem(0)
    before, calls = loss_function().item(), []
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    loss = optimizer.step(make_closure(optimizer, loss_function, calls))
    assert loss.item() == before == calls[0]
    assert len(calls) == 2
    assert calls[1] > before


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, [2, 2, 2, 2, 2, 2]),
        ({"interval": 2}, [2, 1, 2, 1, 2, 1]),
        ({"interval": 3, "reuse": True}, [2, 1, 1, 2, 1, 1]),
        ({"start_step": 2}, [1, 1, 2, 2, 2, 2]),
        ({"interval": 2, "start_step": 3}, [1, 1, 1, 2, 1, 2]),
    ],
)
def test_the_closure_is_called_twice_where_a_second_pass_is_due_and_else_once(options, passes):
    model, loss_function = make_problem(0)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, **options)
    counted = []
    for due in passes:
        calls = []
        assert optimizer.second_pass_is_due == (due == 2)
        optimizer.step(make_closure(optimizer, loss_function, calls))
        counted.append(len(calls))
    assert counted == passes


def test_steps_before_the_start_are_those_of_the_base_optimizer():
    model, loss_function = make_problem(0)
    expected, expected_loss = make_problem(0)
    optimizer = SAM(model.parameters(), torch.optim.Adam, start_step=10)
    plain = torch.optim.Adam(expected.parameters())
    for _ in range(3):
        optimizer.step(make_closure(optimizer, loss_function))
        plain.step(make_closure(plain, expected_loss))
    assert equal(list(model.parameters()), list(expected.parameters()))


def test_a_failed_step_does_not_count():
    model, loss_function = make_problem(0)
    optimizer = SAM(model.parameters(), torch.optim.SGD, interval=2, lr=0.1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    calls = []
    optimizer.step(make_closure(optimizer, loss_function, calls))
    assert len(calls) == 2


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
    assert optimizer.defaults["rho"] == 0.3


def test_the_groups_of_an_optimizer_keep_their_settings():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    base = torch.optim.SGD([{"params": [first], "rho": 0.3}, {"params": [second], "adaptive": True}])
    optimizer = SAM([first, second], base, rho=0.1)
    assert [(group["rho"], group["adaptive"]) for group in optimizer.param_groups] == [(0.3, False), (0.1, True)]


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
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.1]
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


def test_the_radius_may_be_changed_between_steps():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer, seen = SAM([weight], torch.optim.SGD, rho=0.0, lr=0.0), []
    closure = make_closure(optimizer, lambda: seen.append(weight.tolist()) or weight.square().sum() / 2)
    optimizer.step(closure)
    optimizer.param_groups[0]["rho"] = 5.0
    optimizer.step(closure)
    assert seen == [[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"reuse": True, "interval": 2}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gradient_of_zero_does_not_make_nan(dtype, options):
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    optimizer = SAM([weight], torch.optim.SGD, lr=0.1, **options)
    for _ in range(3):
        optimizer.step(make_closure(optimizer, lambda: (weight * 0).sum()))
    assert torch.equal(weight.detach(), torch.ones(2, dtype=dtype))


def test_a_gradient_too_small_to_divide_by_does_not_make_infinities():
    weight = nn.Parameter(torch.tensor(1.0))  # the norm of a single number is exact, however small
    optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
    weight.grad = torch.tensor(1e-42)
    optimizer.first_step()
    assert weight.item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [1e-6, 6e4])
@pytest.mark.parametrize("adaptive", [False, True])
def test_half_precision_is_perturbed_by_the_radius_whatever_the_gradients_size(adaptive, magnitude, dtype):
    weight = nn.Parameter(torch.full((64,), 0.5, dtype=dtype))
    optimizer = SAM([weight], torch.optim.SGD, rho=1.0, adaptive=adaptive)
    weight.grad = torch.full_like(weight, magnitude)
    before = weight.detach().clone()
    optimizer.first_step()
    # Each weight moves by 1 / sqrt(64), or by the half of it if that is measured in units of the weights.
    expected = torch.full((64,), 0.0625 if adaptive else 0.125)
    torch.testing.assert_close((weight - before).detach().float(), expected)


def test_parameters_of_several_dtypes_share_one_norm():
    single, double = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
    half = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    optimizer = SAM([single, double, half], torch.optim.SGD, rho=5.0)
    single.grad, double.grad, half.grad = torch.tensor([3.0]), torch.tensor([4.0]).double(), torch.zeros(1).half()
    optimizer.first_step()
    assert (single.item(), double.item(), half.item()) == (6.0, 8.0, 0.0)


def test_a_base_optimizer_that_maximizes_is_perturbed_towards_lower_values():
    model, loss_function = make_problem(4)
    expected, expected_loss = make_problem(4)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, maximize=True)
    reference = SAM(expected.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    for _ in range(3):
        optimizer.step(make_closure(optimizer, lambda: -loss_function()))
        reference.step(make_closure(reference, expected_loss))
    assert equal(list(model.parameters()), list(expected.parameters()))


def test_the_closure_may_run_under_no_grad():
    model, loss_function = make_problem(6)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with torch.no_grad():
        optimizer.step(make_closure(optimizer, loss_function))


def test_accumulating_in_the_closure_equals_the_large_batch():
    model, _ = make_problem(7)
    expected, _ = make_problem(7)
    torch.manual_seed(0)
    batches = torch.randn(4, 8, 4, dtype=torch.float64)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    reference = SAM(expected.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)

    def accumulating():
        optimizer.zero_grad()
        total = 0
        for batch in batches:
            loss = model(batch).square().mean() / len(batches)
            loss.backward()
            total += loss.item()
        return total

    for _ in range(3):
        total = optimizer.step(accumulating)
        loss = reference.step(make_closure(reference, lambda: expected(batches.flatten(0, 1)).square().mean()))
    assert total == pytest.approx(loss.item())
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def make_noisy_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, momentum=None), nn.Dropout(0.5), nn.Linear(8, 1))
    return model, torch.randn(16, 3)


def test_batch_norm_statistics_move_once_a_step_if_the_model_is_given():
    model, batch = make_noisy_network()
    optimizer, statistics = SAM(model.parameters(), torch.optim.SGD, lr=0.1, model=model), []
    closure = make_closure(optimizer, lambda: model(batch).square().mean())
    optimizer.step(lambda: (closure(), statistics.append(model[1].running_mean.clone()))[0])
    assert model[1].num_batches_tracked == 1
    assert torch.equal(model[1].running_mean, statistics[0])


@pytest.mark.parametrize("replay_rng", [False, True])
def test_dropout_masks_are_replayed_on_request(replay_rng):
    model, batch = make_noisy_network()
    optimizer, masks = SAM(model.parameters(), torch.optim.SGD, rho=0.0, lr=0.1, replay_rng=replay_rng), []
    model[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    optimizer.step(make_closure(optimizer, lambda: model(batch).square().mean()))
    assert torch.equal(masks[0], masks[1]) == replay_rng
    assert masks[0].any()


def test_replaying_leaves_the_random_numbers_that_one_pass_would_leave():
    model, batch = make_noisy_network()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, replay_rng=True)
    state = torch.get_rng_state()
    model(batch)
    expected = torch.rand(1)
    torch.set_rng_state(state)
    optimizer.step(make_closure(optimizer, lambda: model(batch).square().mean()))
    assert torch.equal(torch.rand(1), expected)


def test_compiled_models_train_alike():
    model, _ = make_problem(8)
    expected, _ = make_problem(8)
    batch = torch.ones(3, 4, dtype=torch.float64)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    reference = SAM(expected.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
    for _ in range(3):
        optimizer.step(make_closure(optimizer, lambda: compiled(batch).square().mean()))
        reference.step(make_closure(reference, lambda: expected(batch).square().mean()))
    assert equal(list(model.parameters()), list(expected.parameters()))
    assert len(graphs) == 1


def test_subclasses_of_tensors_are_worked_on_one_by_one():
    class Subclass(torch.Tensor):
        pass

    plain, special = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    special = nn.Parameter(special.detach().as_subclass(Subclass))
    for weight in (plain, special):
        optimizer = SAM([weight], torch.optim.SGD, rho=5.0, lr=0.1)
        optimizer.step(make_closure(optimizer, lambda weight=weight: weight.square().sum() / 2))
    assert torch.equal(special.detach().as_subclass(torch.Tensor), plain.detach())


def test_no_value_is_read_back_from_the_device():
    """On the meta device, where there is no value to read."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        batch = torch.empty(5, 3)
    for options in ({}, {"adaptive": True}, {"interval": 2, "reuse": True}, {"foreach": False}):
        optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, replay_rng=True, lr=0.1, **options)
        for _ in range(3):
            optimizer.step(make_closure(optimizer, lambda: model(batch).square().mean()))


def test_weights_do_not_move_where_the_radius_vanishes():
    model, loss_function = make_problem(9)
    expected, expected_loss = make_problem(9)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.0, lr=0.1)
    plain = torch.optim.SGD(expected.parameters(), lr=0.1)
    weights = weights_of(model)
    optimizer.step(make_closure(optimizer, loss_function))
    plain.step(make_closure(plain, expected_loss))
    assert equal(list(model.parameters()), list(expected.parameters()))
    assert not equal(list(model.parameters()), weights)
