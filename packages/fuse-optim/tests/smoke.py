"""The smallest real use of the package, run against a fresh installation by `nox -s smoke`."""

import torch

from fuse_optim import SAM

weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
optimizer = SAM([weight], torch.optim.SGD, rho=5.0, lr=0.1)


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = weight.square().sum() / 2
    loss.backward()
    return loss


# The gradient of |w|^2 / 2 is w: SAM climbs from w by rho along w, to 2 w here, and descends by 0.1 times 2 w.
assert optimizer.step(closure).item() == 12.5
torch.testing.assert_close(weight.detach(), torch.tensor([2.4, 3.2]))
print(f"after one step: {weight.tolist()}")
