# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-losses", "monai", "kornia"]
# ///
"""Time and peak memory of a forward and a backward pass, beside MONAI, segmentation-models-pytorch, kornia and torch.

    nox -s "bench(losses)" -- [--rounds 9] [--device cuda] [--compile] [--quick]

Times are medians over rounds in which all contestants take turns. Memory is measured in a process of its own for each
library and shape, after a small case has loaded the libraries; the gradient of the logits is 1.00 of it. A second table
is that of losses_with_head.py. `--device cuda` prints another table, whose columns losses_on_gpu.py explains.
A library that is not installed, or does not take the shape, is named as missing.
"""

import argparse
import functools
import itertools
import statistics
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import losses_on_gpu
import losses_with_head
import measure
from measure import print_header, print_row

Loss = Callable[[Tensor, Tensor], Tensor]
IGNORED = 255
SHAPES = {"3d": (1, 14, 96, 96, 96), "2d": (8, 4, 256, 256), "60": (1, 60, 64, 64, 64)}
SHAPES["large"] = (2, 14, 128, 128, 128)
FAMILIES = ("cross-entropy", "weighted cross-entropy", "focal", "Dice", "weighted Dice", "Tversky")
FAMILIES += ("Dice + cross-entropy", "Dice + focal", "Dice + top-k")
LIBRARIES = ("fuse-losses", "fuse-losses compiled", "torch", "monai", "segmentation-models-pytorch", "kornia")
GPU_LIBRARIES = ("fuse-losses", "fuse-losses in blocks", "fuse-losses compiled", "plain formula compiled")
GPU_LIBRARIES += ("torch", "monai")
TARGETS = {  # (family, peer, shape): the bound on our time as a share of theirs
    ("cross-entropy", "torch", "3d"): 1.0,
    ("cross-entropy", "torch", "2d"): 1.0,
    ("Dice", "monai", "3d"): 0.65,
    ("Dice", "monai", "2d"): 1.0,
    ("focal", "monai", "3d"): 0.35,
    ("focal", "monai", "2d"): 1.0,
    ("weighted cross-entropy", "torch", "3d"): 1.0,
    ("weighted cross-entropy", "torch", "2d"): 1.0,
    ("weighted Dice", "monai", "3d"): 1.0,
    ("weighted Dice", "monai", "2d"): 1.0,
    ("Dice + cross-entropy", "monai", "3d"): 0.32,
    ("Dice + cross-entropy", "monai", "2d"): 0.75,
}


def ours(weights: Tensor) -> dict[str, Loss]:
    """The losses of fuse-losses."""
    from fuse_losses import functional

    dice, cross_entropy = functional.dice_loss, functional.segmentation_cross_entropy
    weighted = {"class_weights": weights, "ignore_index": IGNORED}

    def together(other: str) -> Loss:
        return lambda x, y: functional.compound_loss(x, y, {"dice": 1.0, other: 1.0})

    return {
        "cross-entropy": cross_entropy,
        "weighted cross-entropy": lambda x, y: cross_entropy(x, y, **weighted),
        "focal": functional.focal_loss,
        "Dice": dice,
        "weighted Dice": lambda x, y: dice(x, y, **weighted),
        "Tversky": lambda x, y: functional.tversky_loss(x, y, alpha=0.3, beta=0.7),
        "Dice + cross-entropy": together("cross_entropy"),
        "Dice + focal": together("focal"),
        "Dice + top-k": together("top_k_cross_entropy"),
    }


def compiled(weights: Tensor) -> dict[str, Loss]:
    """The losses of fuse-losses, compiled."""
    torch._dynamo.reset()  # those of other shapes count towards the compiler's limit
    return {family: torch.compile(loss, fullgraph=True) for family, loss in ours(weights).items()}


def of_torch(weights: Tensor) -> dict[str, Loss]:
    """The losses of torch."""
    return {
        "cross-entropy": F.cross_entropy,
        "weighted cross-entropy": lambda x, y: F.cross_entropy(x, y, weights.to(x), ignore_index=IGNORED),
    }


def monai(weights: Tensor) -> dict[str, Loss]:
    """The losses of MONAI, whose target has a channel axis."""
    from monai import losses

    options = {"softmax": True, "to_onehot_y": True}
    modules = {
        "focal": losses.FocalLoss(use_softmax=True, to_onehot_y=True),
        "Dice": losses.DiceLoss(**options),
        "weighted Dice": losses.DiceLoss(**options, weight=weights, ignore_index=IGNORED),
        "Tversky": losses.TverskyLoss(**options, alpha=0.3, beta=0.7),
        "Dice + cross-entropy": losses.DiceCELoss(**options),
        "Dice + focal": losses.DiceFocalLoss(**options),
    }
    return {name: lambda x, y, one=module: one.to(x.device)(x, y[:, None]) for name, module in modules.items()}


def segmentation_models_pytorch(_: Tensor) -> dict[str, Loss]:
    """The losses of segmentation-models-pytorch."""
    from segmentation_models_pytorch import losses

    return {
        "cross-entropy": losses.SoftCrossEntropyLoss(smooth_factor=0.0),
        "focal": losses.FocalLoss("multiclass"),
        "Dice": losses.DiceLoss("multiclass"),
        "Tversky": losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7),
    }


def kornia(_: Tensor) -> dict[str, Loss]:
    """The losses of kornia."""
    from kornia import losses

    return {
        "focal": lambda x, y: losses.focal_loss(x, y, alpha=None, gamma=2.0, reduction="mean"),
        "Dice": losses.dice_loss,
        "Tversky": lambda x, y: losses.tversky_loss(x, y, alpha=0.3, beta=0.7),
    }


LOSSES_OF = dict(zip(LIBRARIES, (ours, compiled, of_torch, monai, segmentation_models_pytorch, kornia), strict=True))


def contestant(family: str, library: str, classes: int, device: str = "cpu") -> Loss | None:
    """The loss of a library, or None if it has none of this family."""
    return LOSSES_OF[library](torch.linspace(0.5, 2.0, classes, device=device)).get(family)


def inputs(family: str, shape: tuple[int, ...], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and class indices; weighted losses get voxels to ignore."""
    torch.manual_seed(0)
    logits = torch.randn(shape, device=device, requires_grad=True)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device=device)
    if family.startswith("weighted"):
        target[:, :2] = IGNORED
    return logits, target


def forward_and_backward(loss: Loss, logits: Tensor, target: Tensor) -> None:
    """Leave a gradient in the logits."""
    loss(logits, target).backward()


def times(family: str, shape: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """The seconds of each library that takes part."""
    runs, all_logits = {}, []
    for library in LIBRARIES:
        if library.endswith("compiled") and not arguments.compile:
            continue
        try:
            loss = contestant(family, library, SHAPES[shape][1])
            if loss is None:
                continue
            logits, target = inputs(family, SHAPES[shape])
            forward_and_backward(loss, logits, target)
        except ModuleNotFoundError:  # named as missing in the first line
            continue
        except Exception as error:  # a peer may fail in any way; ours may not
            if library.startswith("fuse-losses"):
                raise
            reason = f"{type(error).__name__}: {str(error)[:100]}"
            print(f"{library} does not take part in {family} {shape}: {reason}", file=sys.stderr)
            continue
        runs[library] = partial(forward_and_backward, loss, logits, target)
        all_logits.append(logits)
    torch.set_num_threads(arguments.threads)  # again: importing a peer may have set it

    def forget_gradients() -> None:
        for one in all_logits:
            one.grad = None

    return measure.take_turns(runs, arguments.rounds, before=forget_gradients)


def peak_memory(family: str, library: str, shape: tuple[int, ...]) -> float:
    """The growth of the peak of memory, in multiples of the logits."""
    loss = contestant(family, library, shape[1])
    small = (1, shape[1], *[32] * (len(shape) - 2))  # enough to load the libraries and start the threads
    warm_up = shape if library.endswith("compiled") else small  # a compiled graph is made for its shape
    forward_and_backward(loss, *inputs(family, warm_up))
    logits, target = inputs(family, shape)
    return measure.peak_growth(partial(forward_and_backward, loss, logits, target), "cpu") / logits.nbytes


@functools.cache
def peak_memories(library: str, shape: str, threads: int) -> dict[str, float]:
    """The growth of the peak of memory of each family, measured in a fresh process; NaN where there is no such loss."""
    command = [__file__, "--memory-of", library, shape, "--threads", str(threads)]
    return dict(zip(FAMILIES, measure.in_fresh_process(*command), strict=True))


def print_memories(library: str, shape: str) -> None:
    """Print the growth for each family: the fresh process of `peak_memories`."""
    peaks = []
    for family in FAMILIES:
        try:
            peaks.append(peak_memory(family, library, SHAPES[shape]))
        except Exception:  # no such loss, or a peer that does not take the shape, which `times` names
            peaks.append(float("nan"))
    print(*peaks)


def gpu_table(arguments: argparse.Namespace) -> None:
    """Print the table for a GPU, with the share of the speed that the bandwidth of its memory allows."""
    columns = ("time [ms]", "GPU time [ms]", "launches", "memory [logits]", "ours / theirs, time", "GPU time", "share")
    print_header("shape", "loss", "library", *columns)
    shapes = ["2d"] if arguments.quick else arguments.shapes
    for shape, family in itertools.product(shapes, FAMILIES):
        limit = losses_on_gpu.milliseconds_of_three_passes(SHAPES[shape])
        ours: losses_on_gpu.Step | None = None
        for library in GPU_LIBRARIES:
            by_compiler = "compiled" in library
            if by_compiler and not arguments.compile:
                continue
            blocks = losses_on_gpu.without_kernels() if library == "fuse-losses in blocks" else nullcontext()
            try:
                if library == "plain formula compiled":
                    loss = losses_on_gpu.by_inductor() if family == "Dice + cross-entropy" else None
                else:
                    loss = contestant(family, library.removesuffix(" in blocks"), SHAPES[shape][1], "cuda")
            except ModuleNotFoundError:
                continue
            if loss is None:
                continue
            logits, target = inputs(family, SHAPES[shape], "cuda")
            with blocks:
                run = partial(forward_and_backward, loss, logits, target)
                step = losses_on_gpu.measure_step(run, logits, arguments.rounds)
            ours = step if ours is None else ours
            ratios = ["", ""] if ours is step else [f"{a / b:.2f}" for a, b in zip(ours[:2], step[:2], strict=True)]
            numbers = (f"{step.milliseconds:.2f}", f"{step.gpu_milliseconds:.3f}", f"{step.launches:.0f}")
            share = f"{limit / step.gpu_milliseconds:.2f}"
            print_row(SHAPES[shape], family, library, *numbers, f"{step.peak:.2f}", *ratios, share)


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    measure.print_versions(*LIBRARIES[3:], device=arguments.device)
    if arguments.device == "cuda":
        gpu_table(arguments)
        return
    print_header("shape", "loss", "library", "time [ms]", "ours / theirs", "target", "memory [logits]", "bound")
    for shape in ["2d"] if arguments.quick else arguments.shapes:
        for family in FAMILIES:
            seconds = times(family, shape, arguments)
            for library in seconds:
                memory = ""
                if not arguments.times_only:
                    memory = f"{peak_memories(library, shape, arguments.threads)[family]:.2f}"
                own = library.startswith("fuse-losses")
                print_row(
                    SHAPES[shape],
                    family,
                    library,
                    f"{1000 * statistics.median(seconds[library]):.0f}",
                    "" if library == "fuse-losses" else f"{measure.ratio(seconds, 'fuse-losses', library):.2f}",
                    TARGETS.get((family, library, shape), ""),
                    memory,
                    f"{1 + 3 / SHAPES[shape][1] + 0.1:.2f}" if own and "+" not in family else "",
                )
    if not arguments.quick:
        losses_with_head.print_table(arguments)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = measure.options_of(__doc__, rounds=9, threads=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shapes", nargs="+", default=["3d", "2d", "60"], choices=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="measure our losses compiled too")
    parser.add_argument("--times-only", action="store_true", help="do not measure memory")
    parser.add_argument("--memory-of", nargs=2, metavar=("LIBRARY", "SHAPE"), help=argparse.SUPPRESS)
    options = measure.parse(parser)
    if options.memory_of:
        print_memories(*options.memory_of)
    else:
        main(options)
