"""Run by test_across_processes.py in two processes: gradients of DistributedDataParallel, against the whole batch."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fuse_losses import LossCompound, functional


def segmentation(terms_or_loss, last_without_voxels):
    torch.manual_seed(0)
    state = torch.nn.Conv2d(1, 2, 3, padding=1).double().state_dict()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    target = (torch.rand(4, 8, 8) > torch.tensor([0.5, 0.9, 0.97, 0.99]).view(4, 1, 1)).long()
    target[2, :4] = 255
    target[3, :7] = 255
    if last_without_voxels:
        target[2:] = 255
    return (
        state,
        images,
        target,
        lambda network, x, y, **options: terms_or_loss(network(x), y, ignore_index=255, **options),
    )


def contrastive(paired):
    torch.manual_seed(0)
    state = torch.nn.Conv2d(1, 2, 3, padding=1).double().state_dict()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    classes = torch.tensor([0, 1, 0, 1])

    def loss(network, x, y, **options):
        features = network(x).flatten(1)
        if paired:
            return functional.supervised_contrastive_loss(features, features.roll(1, 1), symmetrical=True, **options)
        return functional.supervised_contrastive_loss(features, target_i=y, **options)

    return state, images, classes, loss


def dice(logits, target, **options):
    return functional.dice_loss(logits, target, per_sample=False, **options)


def generalized_dice(logits, target, **options):
    return functional.generalized_dice_loss(logits, target, per_sample=False, **options)


def weighted_cross_entropy(logits, target, **options):
    return functional.segmentation_cross_entropy(logits, target, class_weights="ipw", **options)


def compound(logits, target, **options):
    terms = {"cross_entropy": 1.0, "dice": {"per_sample": False}, "focal": 1.0}
    return functional.compound_loss(logits, target, terms, **options)


def tversky(logits, target, **options):
    return functional.tversky_loss(logits, target, per_sample=False, empty="penalize", **options)


def sigmoid_focal(logits, target, **options):
    regions = [[1], [0, 1]]
    return functional.focal_loss(logits, target, activation="sigmoid", regions=regions, pos_weight="ipw", **options)


LOSSES = [dice, tversky, generalized_dice, weighted_cross_entropy, sigmoid_focal, compound]
LOSSES += [functional.dice_loss, functional.focal_loss]
CASES = {
    **{
        f"{loss.__name__}{'_empty' if empty else ''}": (segmentation, loss, empty)
        for loss in LOSSES
        for empty in (0, 1)
    },
    "contrastive": (contrastive, False),
    "contrastive_paired": (contrastive, True),
}


FIRST = {"": 2, "_three_and_one": 3, "_all_and_none": 4}  # the samples of the first process, of four


def counts(rank):
    """What a class says that it counted, here and in one process."""
    logits, target = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 8).long()
    found = []
    for own, across in ((slice(0, 3) if rank == 0 else slice(3, 4), True), (slice(0, 4), False)):
        for terms in ({"cross_entropy": 1.0}, {"cross_entropy": 1.0, "dice": {"per_sample": False}}):
            loss = LossCompound(terms=terms, ignore_index=255, across_processes=across)
            loss(logits[own], target[own])
            found.append(float(loss.counted))
    return {"counted": [found[:2], found[2:]]}


def gradients(case, rank, first):
    make, *arguments = CASES[case]
    state, images, target, loss = make(*arguments)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).double()
    network.load_state_dict(state)
    distributed = torch.nn.parallel.DistributedDataParallel(network)
    own = slice(0, first) if rank == 0 else slice(first, 4)
    value = loss(distributed, images[own], target[own], across_processes=True)
    value.backward()
    whole = torch.nn.Conv2d(1, 2, 3, padding=1).double()
    whole.load_state_dict(state)
    expected = loss(whole, images, target)
    expected.backward()
    pairs = {"value": (value, expected), "gradient": (network.weight.grad, whole.weight.grad)}
    return {name: [one.tolist() for one in pair] for name, pair in pairs.items()}


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {f"{case}{split}": gradients(case, rank, first) for case in CASES for split, first in FIRST.items()}
    results["counts"] = counts(rank)
    with open(folder / f"{rank}.json", "w") as file:
        json.dump(results, file)
        file.flush()
        os.fsync(file.fileno())
    dist.barrier()
    os._exit(0)
