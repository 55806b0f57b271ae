"""The arithmetic on weights and gradients, in every dtype and kind of tensor."""

import pytest
import torch
from small_network import equal, make_closure, make_problem, weights_of
from torch import nn

from fuse_optim import SAM


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


def test_subclasses_of_tensors_are_worked_on_one_by_one():
    class Subclass(torch.Tensor):
        pass

    plain, special = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    special = nn.Parameter(special.detach().as_subclass(Subclass))
    for weight in (plain, special):
        optimizer = SAM([weight], torch.optim.SGD, rho=5.0, lr=0.1)
        optimizer.step(make_closure(optimizer, lambda weight=weight: weight.square().sum() / 2))
    assert torch.equal(special.detach().as_subclass(torch.Tensor), plain.detach())


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
