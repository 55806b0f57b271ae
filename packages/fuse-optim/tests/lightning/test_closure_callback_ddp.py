"""Two processes with DistributedDataParallel, on the CPU with gloo, against one process and large batches."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worker_processes import results_of

PROGRAM = Path(__file__).with_name("ddp_training.py")


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("ddp_training", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    return results_of(PROGRAM, tmp_path_factory.mktemp("ddp"))[0]


def large_batches(program: Any, accumulate: int) -> list[list[Tensor]]:
    """What all processes see in a step: the sampler deals the samples out in turn."""
    size = program.PROCESSES * program.SIZE * accumulate
    inputs, targets = program.samples().tensors
    return list(zip(inputs.split(size), targets.split(size), strict=True))


@pytest.mark.parametrize("kind", ["sam", "lbfgs"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_equal_one_with_large_batches(program, results, kind, accumulate):
    model = program.Regression(kind)
    optimizer = model.configure_optimizers()
    batches = large_batches(program, accumulate)
    for batch in batches:

        def closure(batch: Any = batch) -> Tensor:
            optimizer.zero_grad()
            loss = model.training_step(batch, 0)
            loss.backward()
            return loss

        optimizer.step(closure)
    result = results[f"{kind}-{accumulate}"]
    torch.testing.assert_close(result["weights"], program.weights(model), rtol=0, atol=1e-10)
    assert result["steps"] == len(batches)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_local_perturbation_follows_the_gradient_of_each_process(program, results, accumulate):
    model = program.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=program.RATE, momentum=0.9)

    def gradient(at: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        before = program.weights(model)
        nn.utils.vector_to_parameters(at, model.parameters())
        gradients = torch.autograd.grad(F.mse_loss(model(inputs), targets), list(model.parameters()))
        nn.utils.vector_to_parameters(before, model.parameters())
        return nn.utils.parameters_to_vector(gradients)

    for inputs, targets in large_batches(program, accumulate):
        perturbed = []
        for rank in range(program.PROCESSES):
            own = inputs[rank :: program.PROCESSES], targets[rank :: program.PROCESSES]
            clean = gradient(program.weights(model), *own)
            perturbed.append(gradient(program.weights(model) + program.RHO * clean / clean.norm(), *own))
        mean = torch.stack(perturbed).mean(0).split([p.numel() for p in model.parameters()])
        for p, grad in zip(model.parameters(), mean, strict=True):
            p.grad = grad.view_as(p)
        optimizer.step()
    torch.testing.assert_close(results[f"local-{accumulate}"]["weights"], program.weights(model), rtol=0, atol=1e-10)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("kind", "passes"), [("sam", 2), ("local", 1)])
def test_gradients_are_synchronized_once_a_pass(results, accumulate, kind, passes):
    result = results[f"{kind}-{accumulate}"]
    assert result["synchronized"] == passes * result["steps"]
