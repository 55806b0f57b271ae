"""A small regression in float64 or another dtype, and closures for it."""

import torch
from torch import nn


def make_problem(seed=0, dtype=torch.float64, device="cpu"):
    """A network and a function that gives its loss."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).to(device, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    inputs = torch.randn(16, 4, generator=generator, dtype=torch.float64).to(device, dtype)
    targets = torch.randn(16, 1, generator=generator, dtype=torch.float64).to(device, dtype)
    return model, lambda: nn.functional.mse_loss(model(inputs), targets)


def make_closure(optimizer, loss_function, calls=None):
    """The usual closure; it appends the loss of each call to `calls`."""

    def closure():
        optimizer.zero_grad()
        loss = loss_function()
        loss.backward()
        if calls is not None:
            calls.append(loss.item())
        return loss

    return closure


def weights_of(model):
    """Copies of the parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(first, second):
    """Whether two lists of tensors are equal bit by bit, NaN and signed zeros included."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a.detach().view(torch.uint8), b.detach().view(torch.uint8))
        for a, b in zip(first, second, strict=True)
    )
