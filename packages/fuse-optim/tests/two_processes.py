"""What each of two processes over gloo does in test_distributed.py, and references computed in one process."""

import datetime
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from small_network import make_closure, make_problem
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from worker_processes import run_workers

from fuse_optim import SAM, LookSAM, MomentumSAM

RHO, LR, STEPS = 0.3, 0.1, 3


def batches():
    """One batch for each of two processes."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)


def loss_of(model, batch):
    return (model(batch) - batch[:, :1]).square().mean()


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def reference(perturbation):
    """The weights after some steps: each process's gradient at its perturbed weights, then the mean of both."""
    model, _ = make_problem(0)
    parameters = list(model.parameters())
    for _ in range(STEPS):
        weights = [parameter.detach().clone() for parameter in parameters]
        gradients = [flat(torch.autograd.grad(loss_of(model, batch), parameters)) for batch in batches()]
        if perturbation == "global":
            gradients = [sum(gradients) / 2] * 2
        descents = []
        for batch, gradient in zip(batches(), gradients, strict=True):
            assign(parameters, flat(weights) + RHO * gradient / gradient.norm())
            descents.append(flat(torch.autograd.grad(loss_of(model, batch), parameters)))
        assign(parameters, flat(weights) - LR * sum(descents) / 2)
    return flat(parameters)


def assign(parameters, values):
    with torch.no_grad():
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def train(rank, perturbation, **options):
    """The weights after some steps, and in how many backward passes gradients were averaged."""
    model, _ = make_problem(0)
    wrapped = DistributedDataParallel(model)
    averaged = count_averagings(wrapped)
    optimizer = SAM(
        model.parameters(), torch.optim.SGD, rho=RHO, model=wrapped, perturbation=perturbation, lr=LR, **options
    )
    for _ in range(STEPS):
        optimizer.step(make_closure(optimizer, lambda: loss_of(wrapped, batches()[rank])))
    return flat(model.parameters()), len(averaged)


def count_averagings(wrapped):
    averaged = []

    def hook(state, bucket):
        averaged.append(bucket.index())
        return allreduce_hook(None, bucket)

    wrapped.register_comm_hook(None, hook)
    return averaged


def train_with_overflow(rank):
    """The scale and the weights after a step in which the first pass of one process alone overflows."""
    model, _ = make_problem(0)
    wrapped = DistributedDataParallel(model)
    before = flat(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = SAM(model.parameters(), torch.optim.SGD, model=wrapped, perturbation="local", lr=LR)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(wrapped, batches()[rank])
        scaler.scale(loss).backward()
        calls.append(1)
        if rank == 1 and len(calls) == 1:
            next(model.parameters()).grad.fill_(float("inf"))
        return loss

    optimizer.step(closure, grad_scaler=scaler)
    scaler.update()
    skipped = torch.equal(flat(model.parameters()), before)
    optimizer.step(closure, grad_scaler=scaler)
    scaler.update()
    return skipped, scaler.get_scale(), len(calls), flat(model.parameters())


def train_batch_norm(rank):
    """The statistics of a batch norm, moved by a plain step and by one of SAM with the same random numbers."""
    statistics = []
    for steps in ("plain", "SAM"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
        wrapped = DistributedDataParallel(model)
        optimizer = (
            torch.optim.SGD(model.parameters(), lr=0.0)
            if steps == "plain"
            else SAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=0.0, model=wrapped)
        )
        for _ in range(STEPS):
            optimizer.step(make_closure(optimizer, lambda wrapped=wrapped: loss_of(wrapped, batches()[rank])))
        statistics.append(flat([model[1].running_mean, model[1].running_var]))
    return statistics


def train_momentum(rank):
    """The weights after some steps of MomentumSAM, and in how many backward passes gradients were averaged."""
    model, _ = make_problem(0)
    wrapped = DistributedDataParallel(model)
    averaged = count_averagings(wrapped)
    optimizer = MomentumSAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(wrapped, batches()[rank]).backward()
        optimizer.step()
    return flat(model.parameters()), len(averaged)


def momentum_reference():
    model, _ = make_problem(0)
    optimizer = MomentumSAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (sum(loss_of(model, batch) for batch in batches()) / 2).backward()
        optimizer.step()
    return flat(model.parameters())


def polynomial(parameters):
    return sum((i + 1) * (parameter.pow(4) + parameter).sum() for i, parameter in enumerate(parameters))


def train_sharded(rank, adaptive):
    """The weights after some steps, with parameters and gradients sharded over the processes, as FSDP does it."""
    mesh = init_device_mesh("cpu", (2,))
    placements = [[Shard(0)], [Shard(0)], [Shard(1)], [Replicate()]]
    shards = [
        nn.Parameter(distribute_tensor(parameter.detach(), mesh, placement))
        for parameter, placement in zip(make_problem(0)[0].parameters(), placements, strict=True)
    ]
    optimizer = LookSAM(shards, torch.optim.SGD, rho=RHO, lr=LR, adaptive=adaptive, interval=2)

    def closure():
        whole = [shard.full_tensor().detach().requires_grad_() for shard in shards]
        loss = polynomial(whole)
        for shard, gradient in zip(shards, torch.autograd.grad(loss, whole), strict=True):
            shard.grad = distribute_tensor(gradient, mesh, shard.placements)
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return flat([shard.full_tensor() for shard in shards])


def train_whole(adaptive):
    parameters = list(make_problem(0)[0].parameters())
    optimizer = LookSAM(parameters, torch.optim.SGD, rho=RHO, lr=LR, adaptive=adaptive, interval=2)
    for _ in range(STEPS):
        optimizer.step(make_closure(optimizer, lambda: polynomial(parameters)))
    return flat(parameters)


def worker(rank, folder):
    """What process `rank` gets."""
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout)
    return {
        "global": train(rank, "global"),
        "local": train(rank, "local"),
        "local, interval": train(rank, "local", interval=2),
        "momentum": train_momentum(rank),
        "overflow": train_with_overflow(rank),
        "batch norm": train_batch_norm(rank),
        "sharded": train_sharded(rank, False),
        "sharded, adaptive": train_sharded(rank, True),
    }


if __name__ == "__main__":
    run_workers(worker, Path(sys.argv[1]))
