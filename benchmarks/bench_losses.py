# /// script
# requires-python = ">=3.11"
# dependencies = ["fuse-losses", "monai", "kornia"]
# ///
"""Time and peak memory of a forward and a backward pass, beside MONAI, segmentation-models-pytorch, kornia and torch.

    nox -s "bench(losses)" -- [--rounds 9] [--device cuda] [--compile]

Times are medians over rounds in which all contestants take turns. Memory is measured in a process of its own for each
contestant: on a CPU the growth of the resident set's peak (VmHWM, reset through clear_refs after the inputs are made
and a small case has loaded the libraries; malloc is told to return freed blocks at once), on a GPU the growth of the
allocator's peak. Both include the gradient of the logits, which is 1.00 by itself. A library that is not installed, or
does not take the shape, is named as missing.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
SHAPES = {"3d": (1, 14, 96, 96, 96), "2d": (8, 4, 256, 256), "60": (1, 60, 64, 64, 64)}
FAMILIES = (
    "cross-entropy",
    "weighted cross-entropy",
    "focal",
    "Dice",
    "weighted Dice",
    "Tversky",
    "Dice + cross-entropy",
)
LIBRARIES = ("fuse-losses", "fuse-losses compiled", "torch", "monai", "segmentation-models-pytorch", "kornia")
TARGETS = {  # (family, peer, shape): the bound on our time as a share of theirs
    ("cross-entropy", "torch", "3d"): 1.0,
    ("cross-entropy", "torch", "2d"): 1.0,
    ("Dice", "monai", "3d"): 0.65,
    ("Dice", "monai", "2d"): 1.0,
    ("focal", "monai", "3d"): 0.35,
    ("focal", "monai", "2d"): 1.0,
}


def contestant(family: str, library: str, classes: int) -> Loss | None:
    """The loss of a library, or None if it has none of this family."""
    weights = torch.linspace(0.5, 2.0, classes)
    if library.startswith("fuse-losses"):
        from fuse_losses import functional as ours

        weighted = {"class_weights": weights, "ignore_index": 255}
        losses: dict[str, Loss] = {
            "cross-entropy": ours.segmentation_cross_entropy,
            "weighted cross-entropy": lambda x, y: ours.segmentation_cross_entropy(x, y, **weighted),
            "focal": ours.focal_loss,
            "Dice": ours.dice_loss,
            "weighted Dice": lambda x, y: ours.dice_loss(x, y, **weighted),
            "Tversky": lambda x, y: ours.tversky_loss(x, y, alpha=0.3, beta=0.7),
            "Dice + cross-entropy": lambda x, y: ours.dice_loss(x, y) + ours.segmentation_cross_entropy(x, y),
        }
        return torch.compile(losses[family], fullgraph=True) if library.endswith("compiled") else losses[family]
    if library == "torch":
        return {
            "cross-entropy": F.cross_entropy,
            "weighted cross-entropy": lambda x, y: F.cross_entropy(x, y, weights.to(x), ignore_index=255),
        }.get(family)
    if library == "monai":
        from monai import losses as monai

        options = {"softmax": True, "to_onehot_y": True}
        module = {
            "focal": lambda: monai.FocalLoss(use_softmax=True, to_onehot_y=True),
            "Dice": lambda: monai.DiceLoss(**options),
            "weighted Dice": lambda: monai.DiceLoss(**options, weight=weights),
            "Tversky": lambda: monai.TverskyLoss(**options, alpha=0.3, beta=0.7),
            "Dice + cross-entropy": lambda: monai.DiceCELoss(**options),
        }.get(family)
        if module is None:
            return None
        built = module()
        return lambda x, y: built.to(x.device)(x, y[:, None])
    if library == "segmentation-models-pytorch":
        from segmentation_models_pytorch import losses as smp

        smp_losses = {
            "cross-entropy": lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.0),
            "focal": lambda: smp.FocalLoss("multiclass"),
            "Dice": lambda: smp.DiceLoss("multiclass"),
            "Tversky": lambda: smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7),
        }
        return smp_losses[family]() if family in smp_losses else None
    from kornia import losses as kornia

    return {
        "focal": lambda x, y: kornia.focal_loss(x, y, alpha=None, gamma=2.0, reduction="mean"),
        "Dice": kornia.dice_loss,
        "Tversky": lambda x, y: kornia.tversky_loss(x, y, alpha=0.3, beta=0.7),
    }.get(family)


def inputs(shape: tuple[int, ...], device: str, weighted: bool) -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and class indices."""
    torch.manual_seed(0)
    logits = torch.randn(shape, device=device, requires_grad=True)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device=device)
    if weighted:
        target[:, :2] = 255
    return logits, target


def step(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """The seconds of a forward and a backward pass."""
    logits.grad = None
    _synchronize(logits)
    start = time.perf_counter()
    loss(logits, target).backward()
    _synchronize(logits)
    return time.perf_counter() - start


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def ignores(family: str, library: str) -> bool:
    """Whether the target marks voxels to ignore: MONAI's Dice cannot, so its weighted contest goes without."""
    return family.startswith("weighted") and library != "monai"


def measure_memory(family: str, library: str, shape: tuple[int, ...], device: str) -> float:
    """The growth of the peak of memory, in multiples of the logits."""
    loss = contestant(family, library, shape[1])
    if loss is None:
        raise LookupError(f"{library} has no {family}")
    small = (1, shape[1], *[32] * (len(shape) - 2))  # enough to start the threads
    warm_up = shape if library.endswith("compiled") else small  # a compiled graph is made for its shape
    step(loss, *inputs(warm_up, device, ignores(family, library)))
    logits, target = inputs(shape, device, ignores(family, library))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, logits, target)
        return (torch.cuda.max_memory_allocated() - before) / logits.nbytes
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident_set()
    step(loss, logits, target)
    return (_peak_resident_set() - before) / logits.nbytes


def _peak_resident_set() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def memory_in_a_process_of_its_own(
    family: str, library: str, shape: str, arguments: argparse.Namespace
) -> float | None:
    """`measure_memory` in a fresh interpreter; None if the contestant cannot take part."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory-of", family, library, shape]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    # Freed blocks go back to the system at once, so that the peak is of what is in use, not of what malloc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return float(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def times(family: str, shape: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """The seconds of each library that takes part, measured in turns."""
    taking_part = {}
    for library in libraries(arguments):
        try:
            loss = contestant(family, library, SHAPES[shape][1])
            if loss is None:
                continue
            tensors = inputs(SHAPES[shape], arguments.device, ignores(family, library))
            for _ in range(2):
                step(loss, *tensors)
        except Exception as error:  # a peer may fail in any way; ours may not
            if library.startswith("fuse-losses"):
                raise
            reason = f"{type(error).__name__}: {str(error)[:100]}"
            print(f"{library} does not take part in {family} {shape}: {reason}", file=sys.stderr)
            continue
        taking_part[library] = (loss, tensors)
    torch.set_num_threads(arguments.threads)  # again: importing a peer may have set it
    measured: dict[str, list[float]] = {library: [] for library in taking_part}
    for _ in range(arguments.rounds):
        for library, (loss, tensors) in taking_part.items():
            measured[library].append(step(loss, *tensors))
    return measured


def libraries(arguments: argparse.Namespace) -> list[str]:
    """Those to compare."""
    return [one for one in LIBRARIES if arguments.compile or not one.endswith("compiled")]


def device_copy_share(shape: tuple[int, ...]) -> None:
    """Print what share of the speed of a copy of the same bytes the forward pass reaches on a GPU."""
    logits, target = inputs(shape, "cuda", weighted=False)
    other = torch.empty_like(logits)

    def seconds(function: Callable[[], object]) -> float:
        taken = []
        for _ in range(20):
            torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    with torch.no_grad():
        copied = seconds(lambda: other.copy_(logits)) / 2  # a copy reads and writes; a forward reads
        for family in ("cross-entropy", "focal", "Dice", "Tversky"):
            loss = contestant(family, "fuse-losses", shape[1])
            assert loss is not None
            print(f"| {family} forward | {copied / seconds(lambda loss=loss: loss(logits, target)):.2f} of a copy |")


def print_versions() -> None:
    """The libraries' versions and the machine."""
    versions = []
    for library in ("torch", *LIBRARIES[3:]):
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{library} missing")
    print(f"{', '.join(versions)}; Python {platform.python_version()}, {torch.get_num_threads()} threads\n")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    print_versions()
    print("| shape | loss | library | time [ms] | ours / theirs | target | memory [logits] | bound |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in arguments.shapes:
        for family in FAMILIES:
            measured = times(family, shape, arguments)
            ours = measured["fuse-losses"]
            for library, seconds in measured.items():
                ratio = statistics.median(a / b for a, b in zip(ours, seconds, strict=True))
                memory = (
                    None if arguments.times_only else memory_in_a_process_of_its_own(family, library, shape, arguments)
                )
                bound = 1 + 3 / SHAPES[shape][1] + 0.1
                own = library.startswith("fuse-losses")
                cells = (
                    str(SHAPES[shape]),
                    family,
                    library,
                    f"{1000 * statistics.median(seconds):.0f}",
                    "" if library == "fuse-losses" else f"{ratio:.2f}",
                    f"{TARGETS[family, library, shape]:.2f}" if (family, library, shape) in TARGETS else "",
                    "" if memory is None else f"{memory:.2f}",
                    f"{bound:.2f}" if own and "+" not in family else "",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
    if arguments.device == "cuda":
        device_copy_share(SHAPES["3d"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="measure our losses compiled too")
    parser.add_argument("--times-only", action="store_true", help="do not measure memory")
    parser.add_argument("--memory-of", nargs=3, metavar=("LOSS", "LIBRARY", "SHAPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        one_family, one_library, one_shape = options.memory_of
        print(measure_memory(one_family, one_library, SHAPES[one_shape], options.device))
    else:
        main(options)
