"""SAM over every optimizer and every input of PyTorch's own test database."""

import copy
import functools
import warnings

import pytest
import torch
from small_network import equal, make_closure
from torch import nn

from fuse_optim import SAM, MomentumSAM

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    common_optimizers = pytest.importorskip(
        "torch.testing._internal.common_optimizers", reason="needs expecttest, and setuptools with torch 2.6"
    )

NOT_FOR_SAM = {"LBFGS": "evaluates a closure", "SparseAdam": "dense gradients"}
INFOS = {info.optim_cls.__name__: info for info in common_optimizers.optim_db}
CASES = [
    pytest.param(info.optim_cls, given.kwargs, id=f"{name}-{given.desc or index}".replace(" ", "_"))
    for name, info in INFOS.items()
    if name not in NOT_FOR_SAM
    for index, given in enumerate(info.optim_inputs_func(device="cpu", dtype=torch.float32))
]


def has_momentum(optimizer_class, kwargs):
    adams = {torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax}
    return optimizer_class in adams or "momentum" in kwargs


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False)
    )  # Muon takes matrices only
    inputs, targets = torch.randn(8, 4), torch.randn(8, 2)
    return model, lambda: nn.functional.mse_loss(model(inputs), targets)


def made_by(optimizer_class, kwargs):
    # A function, because the argument `rho` of Adadelta is not SAM's.
    kwargs = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}
    return functools.partial(optimizer_class, **kwargs)


def losses_of(optimizer, loss_function, maximize, steps=5):
    calls = []
    sign = -1 if maximize else 1
    for _ in range(steps):
        optimizer.step(make_closure(optimizer, lambda: sign * loss_function(), calls))
    return calls


@pytest.mark.parametrize(("optimizer_class", "kwargs"), CASES)
def test_a_radius_of_zero_gives_the_steps_of_the_base_optimizer(optimizer_class, kwargs):
    (model, loss_function), (expected, expected_loss) = make(), make()
    base = made_by(optimizer_class, kwargs)
    losses_of(SAM(model.parameters(), base, rho=0.0), loss_function, kwargs.get("maximize"))
    losses_of(base(expected.parameters()), expected_loss, kwargs.get("maximize"))
    assert equal(list(model.parameters()), list(expected.parameters()))


@pytest.mark.parametrize(
    ("kind", "optimizer_class", "kwargs"),
    [pytest.param(SAM, *case.values, id=f"SAM-{case.id}") for case in CASES]
    + [
        pytest.param(MomentumSAM, *case.values, id=f"MomentumSAM-{case.id}")
        for case in CASES
        if has_momentum(*case.values)
    ],
)
def test_resuming_equals_going_on(kind, optimizer_class, kwargs):
    model, loss_function = make()
    base = made_by(optimizer_class, kwargs)
    optimizer = kind(model.parameters(), base, rho=0.1)
    losses_of(optimizer, loss_function, kwargs.get("maximize"), steps=2)
    resumed, resumed_loss = make()
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = kind(resumed.parameters(), base, rho=0.1)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    going_on = losses_of(optimizer, loss_function, kwargs.get("maximize"))
    assert losses_of(resumed_optimizer, resumed_loss, kwargs.get("maximize")) == going_on
    assert equal(list(model.parameters()), list(resumed.parameters()))
    assert len(set(going_on)) > 1


@pytest.mark.parametrize("name", sorted(INFOS))
def test_arguments_that_the_base_optimizer_refuses_are_refused_with_its_message(name):
    refused = [
        one
        for one in INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
        if one.error_on is common_optimizers.OptimizerErrorEnum.CONSTRUCTION_ERROR
    ]
    for one in refused:
        given = one.optimizer_error_input
        params = [nn.Parameter(torch.ones(2, 2))] if given.params is None else given.params
        with pytest.raises(one.error_type) as plain:
            INFOS[name].optim_cls(copy.deepcopy(params), **given.kwargs)
        with pytest.raises(one.error_type) as wrapped:
            SAM(copy.deepcopy(params), made_by(INFOS[name].optim_cls, given.kwargs))
        assert str(wrapped.value) == str(plain.value)


def test_the_optimizers_left_out_are_refused():
    weight = nn.Embedding(3, 2, sparse=True).weight
    with pytest.raises(ValueError, match=NOT_FOR_SAM["LBFGS"]):
        SAM([weight], torch.optim.LBFGS)
    optimizer = SAM([weight], torch.optim.SparseAdam)
    with pytest.raises(RuntimeError, match=NOT_FOR_SAM["SparseAdam"]):
        optimizer.step(lambda: nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward())
