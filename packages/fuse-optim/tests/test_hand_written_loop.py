import warnings

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM, LookSAM, RNGSnapshot, freeze_batch_norm_stats

KINDS = [
    (SAM, {}),
    (SAM, {"adaptive": True}),
    (SAM, {"interval": 2}),
    (LookSAM, {"interval": 2}),
    (SAM, {"start_step": 2}),
]


def make(kind=SAM, **options):
    model, loss_function = make_problem(0)
    return model, loss_function, kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.05, momentum=0.9, **options)


@pytest.mark.parametrize("skipping", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_it_does_what_step_does(kind, options, skipping):
    model, loss_function, optimizer = make(kind, **options)
    expected, expected_loss, expected_optimizer = make(kind, **options)
    for _ in range(5):
        expected_optimizer.step(make_closure(expected_optimizer, expected_loss))
        loss_function().backward()
        if optimizer.second_pass_is_due or not skipping:
            optimizer.first_step(zero_grad=True)
            loss_function().backward()
        optimizer.second_step(zero_grad=True)
    assert equal(list(model.parameters()), list(expected.parameters()))


def test_zero_grad_is_optional():
    model, loss_function, optimizer = make()
    loss_function().backward()
    optimizer.first_step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.second_step()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_can_be_restored_without_a_step():
    model, loss_function, optimizer = make()
    weights = weights_of(model)
    loss_function().backward()
    optimizer.first_step()
    assert not equal(list(model.parameters()), weights)
    optimizer.restore_weights()
    assert equal(list(model.parameters()), weights)
    optimizer.first_step()
    optimizer.second_step()


@pytest.mark.parametrize("method", ["first_step", "step"])
def test_a_second_step_that_is_missing_is_noticed(method):
    _, loss_function, optimizer = make()
    closure = make_closure(optimizer, loss_function)
    closure()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match=rf"SAM\.{method} came after a first_step .* Call second_step, or restore_w"):
        getattr(optimizer, method)(*([closure] if method == "step" else []))


def test_a_first_step_that_is_missing_is_noticed():
    _, loss_function, optimizer = make()
    loss_function().backward()
    with pytest.raises(RuntimeError, match=r"SAM\.second_step needs first_step before it"):
        optimizer.second_step()


def test_gradients_that_are_missing_are_noticed():
    _, loss_function, optimizer = make()
    with pytest.raises(RuntimeError, match=r"no gradient after the first pass\. Call backward on the loss before it"):
        optimizer.first_step()
    loss_function().backward()
    optimizer.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match=r"no gradient after the second pass"):
        optimizer.second_step()


def test_schedulers_do_not_miss_a_step():
    _, loss_function, optimizer = make()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    loss_function().backward()
    optimizer.first_step(zero_grad=True)
    loss_function().backward()
    optimizer.second_step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.025


def test_batch_norm_statistics_and_dropout_masks_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    optimizer, batch = SAM(model.parameters(), torch.optim.SGD, lr=0.1), torch.randn(16, 3)
    snapshot = RNGSnapshot()
    clean = model(batch)
    clean.square().sum().backward()
    statistics = model[1].running_mean.clone()
    optimizer.first_step(zero_grad=True)
    with freeze_batch_norm_stats(model), snapshot.replay():
        perturbed = model(batch)
    perturbed.square().sum().backward()
    optimizer.second_step()
    assert torch.equal(perturbed == 0, clean == 0)
    assert torch.equal(model[1].running_mean, statistics)
    assert model[1].num_batches_tracked == 1
