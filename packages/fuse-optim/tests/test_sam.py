import math

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM, LookSAM


def make(base=torch.optim.SGD, **options):
    return SAM([nn.Parameter(torch.ones(1))], base, **options)


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
        ({"interval": 3}, [2, 1, 1, 2, 1, 1]),
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


def test_the_radius_may_be_changed_between_steps():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer, seen = SAM([weight], torch.optim.SGD, rho=0.0, lr=0.0), []
    closure = make_closure(optimizer, lambda: seen.append(weight.tolist()) or weight.square().sum() / 2)
    optimizer.step(closure)
    optimizer.param_groups[0]["sam_rho"] = 5.0
    optimizer.step(closure)
    assert seen == [[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize(
    ("kind", "options"), [(SAM, {}), (SAM, {"adaptive": True}), (LookSAM, {"interval": 2})], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gradient_of_zero_does_not_make_nan(dtype, kind, options):
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    optimizer = kind([weight], torch.optim.SGD, lr=0.1, **options)
    for _ in range(3):
        optimizer.step(make_closure(optimizer, lambda: (weight * 0).sum()))
    assert torch.equal(weight.detach(), torch.ones(2, dtype=dtype))


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


def test_no_value_is_read_back_from_the_device():
    """On the meta device, where there is no value to read."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        batch = torch.empty(5, 3)
    kinds = (SAM, {}), (SAM, {"adaptive": True}), (LookSAM, {"interval": 2}), (SAM, {"foreach": False})
    for kind, options in kinds:
        optimizer = kind(model.parameters(), torch.optim.SGD, model=model, replay_rng=True, lr=0.1, **options)
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


@pytest.mark.parametrize("name", ["rho", "adaptive_eta"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_radii_must_be_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=rf"SAM needs a finite {name} >= 0, got {value}\."):
        make(**{name: value})
    with pytest.raises(ValueError, match=rf"SAM needs a finite {name} >= 0, got {value}\."):
        SAM([{"params": [nn.Parameter(torch.ones(1))], name: value}], torch.optim.SGD)
    with pytest.raises(ValueError, match=rf"SAM needs a finite {name} >= 0, got {value}\."):
        make().add_param_group({"params": [nn.Parameter(torch.ones(1))], name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, r"SAM needs an integer interval >= 1, got 0\."),
        ({"interval": 2.0}, r"SAM needs an integer interval >= 1, got 2\.0\."),
        ({"start_step": -1}, r"SAM needs an integer start_step >= 0, got -1\."),
        ({"perturbation": "lokal"}, r"SAM needs perturbation=\"global\" or \"local\", got 'lokal'\."),
        (
            {"perturbation": "local"},
            r"for perturbation=\"local\" a model=, the DistributedDataParallel.* got NoneType\.",
        ),
        ({"perturbation": "local", "model": nn.Linear(1, 1)}, r"perturbation=\"local\" a model=.* got Linear\."),
    ],
)
def test_options_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("interval", [1, 2])
def test_a_closure_must_call_backward(interval):
    weight = nn.Parameter(torch.ones(1))
    optimizer = SAM([weight], torch.optim.SGD, interval=interval, start_step=interval - 1)
    with pytest.raises(RuntimeError, match=r"no gradient after the first pass\. The closure must call backward on"):
        optimizer.step(lambda: weight.sum())


def test_gradients_of_an_earlier_step_do_not_stand_in_for_backward():
    model, loss_function = make_problem()
    loss_function().backward()
    weights = weights_of(model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(RuntimeError, match=r"no gradient after the second pass\. The closure must call backward each"):
        optimizer.step(loss_function)
    assert equal(list(model.parameters()), weights)


def test_a_closure_is_needed():
    with pytest.raises(
        ValueError, match=r"(?s)SAM\.step needs a closure.*optimizer\.step\(closure\).*Lightning.*Callb"
    ):
        make().step()


def test_the_optimizer_is_not_for_the_step_of_a_scaler():
    weight = nn.Parameter(torch.ones(1))
    optimizer, scaler = SAM([weight], torch.optim.SGD), torch.amp.GradScaler("cpu")
    scaler.scale(weight.sum()).backward()
    with pytest.raises(ValueError, match=r"step\(closure, grad_scaler=scaler\) instead of scaler\.step\(optimizer\)"):
        scaler.step(optimizer)
