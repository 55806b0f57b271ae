"""One of two processes that train models with DistributedDataParallel; started by test_distributed.py.

    python ddp_worker.py RANK FOLDER

It writes the gradients of each model to FOLDER/gradients_RANK.pt and leaves with os._exit: DistributedDataParallel and
its process group hang or abort now and then when the interpreter destroys them.
"""

import datetime
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fuse_models import HeadGlobalPoolingClassifier, ModelMultistream, ModelSiamese

WORLD_SIZE = 2
MODELS = ("multistream_of_shared_weights", "siamese", "siamese_in_two_passes")


def make(name):
    """A model in which weights are used twice in a forward, the same in every process."""
    torch.manual_seed(0)
    options = {"pooling": "avg", "layers_description": (), "dropout_rate": 0.0}
    head = HeadGlobalPoolingClassifier("cls", conv_inputs=[("model.backbone_features", 8)], num_classes=3, **options)
    if name == "multistream_of_shared_weights":
        return ModelMultistream(("data.before", 2), [nn.Conv2d(1, 4, 3)] * 2, [head])
    inputs = [("data.before", 2)], [("data.after", 2)]
    return ModelSiamese(*inputs, nn.Conv2d(2, 4, 3), [head], batched=name != "siamese_in_two_passes")


def loss_of(model, rank):
    """The loss of the batch of one process."""
    generator = torch.Generator().manual_seed(rank)
    batch = {key: torch.randn(4, 2, 6, 6, generator=generator) for key in ("data.before", "data.after")}
    return model(batch)["model.logits.cls"].pow(2).sum()


def main(rank, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=datetime.timedelta(seconds=60),
    )
    models = {name: DistributedDataParallel(make(name)) for name in MODELS}
    for model in models.values():
        for _ in range(2):  # the second forward fails if a gradient of the first was not reduced
            model.zero_grad()
            loss_of(model, rank).backward()
    gradients = {name: [parameter.grad for parameter in model.parameters()] for name, model in models.items()}
    torch.save(gradients, folder / f"unfinished_{rank}.pt")
    os.replace(folder / f"unfinished_{rank}.pt", folder / f"gradients_{rank}.pt")
    while len(list(folder.glob("gradients_*.pt"))) < WORLD_SIZE:  # the other process may still need this one
        time.sleep(0.05)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
