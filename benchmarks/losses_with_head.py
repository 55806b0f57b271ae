"""A last layer of 118 classes with Dice + cross-entropy: as one, and one after the other.

`bench_losses.py` prints its table. Memory is the growth of the peak in multiples of the features (1, 32, 64, 64, 64);
their gradient is 1.00 of it.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import measure

NAMES = ("LossLinearCompound", "convolution, LossCompound", "convolution, MONAI's DiceCELoss")


def last_layer_and_loss(name: str, size: int) -> tuple[measure.Run, Tensor]:
    """A forward and a backward pass, and the features that it starts from."""
    torch.manual_seed(0)
    features = torch.randn(1, 32, size, size, size, requires_grad=True)
    target = torch.randint(118, (1, size, size, size))
    layer = torch.nn.Conv3d(32, 118, 1)
    if name == NAMES[2]:
        from monai.losses import DiceCELoss

        criterion = DiceCELoss(softmax=True, to_onehot_y=True)
        return lambda: criterion(layer(features), target[:, None]).backward(), features
    from fuse_losses import LossCompound, LossLinearCompound

    terms = {"dice": 1.0, "cross_entropy": 1.0}
    if name == NAMES[1]:
        compound = LossCompound(terms=terms)
        return lambda: compound(layer(features), target).backward(), features
    linear = LossLinearCompound(layer=layer, terms=terms)
    return lambda: linear(features, target).backward(), features


def forget_gradient(features: list[Tensor]) -> None:
    """Drop the gradients, so that no backward pass adds to one."""
    for one in features:
        one.grad = None


def print_table(arguments: argparse.Namespace) -> None:
    """Print the table."""
    runs, features = {}, []
    for name in NAMES:
        try:
            runs[name], of_run = last_layer_and_loss(name, 64)
        except ModuleNotFoundError:  # named as missing in the first line
            continue
        features.append(of_run)
    seconds = measure.take_turns(runs, arguments.rounds, before=partial(forget_gradient, features))
    measure.print_header("last layer and loss", "time [ms]", "ours / theirs", "memory [features]")
    for name in runs:
        memory = "" if arguments.times_only else measure.in_fresh_process(__file__, name, str(arguments.threads))[0]
        ratio = "" if name == NAMES[0] else f"{measure.ratio(seconds, NAMES[0], name):.2f}"
        measure.print_row(
            name, f"{1000 * statistics.median(seconds[name]):.0f}", ratio, f"{memory:.2f}" if memory else ""
        )


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    last_layer_and_loss(sys.argv[1], 16)[0]()  # loads the libraries
    run, features = last_layer_and_loss(sys.argv[1], 64)
    print(measure.peak_growth(run, "cpu") / features.nbytes)
