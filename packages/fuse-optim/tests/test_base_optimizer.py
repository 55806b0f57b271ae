import math
from functools import partial

import pytest
import torch
from small_network import equal, make_problem, weights_of
from torch import nn

from fuse_optim import SAM


def make(base=torch.optim.SGD, **options):
    return SAM([nn.Parameter(torch.ones(1))], base, **options)


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
        ({"reuse_alpha": -1.0}, r"SAM needs a finite reuse_alpha >= 0, got -1\.0\."),
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


def test_local_perturbations_cannot_be_reused():
    model = nn.Linear(1, 1)
    model.no_sync = lambda: None
    with pytest.raises(ValueError, match=r'SAM needs perturbation="global" for reuse.*, got "local"'):
        make(perturbation="local", model=model, reuse=True)


@pytest.mark.parametrize("base", [torch.optim.LBFGS, partial(SAM, base_optimizer=torch.optim.SGD)], ids=str)
def test_base_optimizers_that_need_a_closure_are_rejected(base):
    with pytest.raises(ValueError, match=r"takes a step from gradients alone, but (LBFGS|SAM) evaluates a closure"):
        make(base)


@pytest.mark.parametrize("base", ["SGD", lambda params: list(params), None])
def test_base_optimizers_must_be_optimizers(base):
    with pytest.raises(TypeError, match=r"SAM needs a base_optimizer that is an optimizer, its class, or a function"):
        make(base)


def test_an_optimizer_takes_no_further_arguments():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=r"got an optimizer, SGD, which is made already, and arguments for it: lr, mom"):
        SAM([weight], torch.optim.SGD([weight]), lr=0.1, momentum=0.9)


def test_an_optimizer_must_have_the_same_parameters():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    with pytest.raises(ValueError, match=r"same parameters: SAM got 2, SGD has 2, and 1 are in both\. Pass base_optim"):
        SAM(weights[:2], torch.optim.SGD(weights[1:]))


def test_groups_of_an_optimizer_are_its_own():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(
        ValueError, match=r"the groups are those of the optimizer.* Set rho .* in base_optimizer\.param"
    ):
        SAM([{"params": [weight], "rho": 0.3}], torch.optim.SGD([weight]))


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


@pytest.mark.parametrize("start_step", [0, 1])
def test_sparse_gradients_are_rejected_before_anything_moves(start_step):
    embedding = nn.Embedding(5, 2, sparse=True)
    weights = weights_of(embedding)
    optimizer = SAM(embedding.parameters(), torch.optim.SGD, lr=0.1, start_step=start_step)

    def closure():
        loss = embedding(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"dense gradients, got one of layout torch\.sparse_coo .* shape \(5, 2\)"):
        optimizer.step(closure)
    assert equal(list(embedding.parameters()), weights)
