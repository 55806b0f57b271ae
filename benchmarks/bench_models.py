# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "dynamic-network-architectures", "fuse-core", "fuse-models", "segmentation-models-pytorch", "tensordict", "timm",
#     "torchvision==0.21.0",
# ]
#
# [tool.bench]
# # torchvision comes for one torch each; this is the one that it is installed beside in the tests.
# torch = "2.6.0"
# # Its model wrapper alone is measured, which needs none of the 160 distributions that come with it.
# install-without-dependencies = ["fuse-med-ml==0.4.1"]
# ///
"""Time of models, beside torchvision, timm, nnU-Net's networks, segmentation-models-pytorch, FuseMedML and tensordict.

nox -s "bench(models)" -- [--rounds 15] [--threads 2] [--device cuda] [--tables backbones] [--quick]
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from fuse_core import NDict
from fuse_models import (
    BackboneInceptionResnetV2,
    BackboneResnet,
    BackboneResnet3D,
    BackboneUNet,
    BackboneViT,
    DecoderUNet,
    Head1D,
    HeadDenseSegmentation,
    ModelEnsemble,
    ModelMultiHead,
    ModelWrapDictToSeq,
    ModelWrapSeqToDict,
)

sys.path.insert(0, str(Path(__file__).parent))
import measure
from measure import Run, print_header, print_row


def clock_of(device: str) -> Callable[[], float]:
    """The clock to measure with."""
    return measure.gpu_clock if device == "cuda" else time.perf_counter


def forward_and_backward(model: nn.Module, x: Tensor) -> None:
    """A training step without the optimizer."""
    model.zero_grad()
    model(x).square().mean().backward()


def without_classifier(model: nn.Module, name: str) -> nn.Module:
    """A peer's network that ends with its pooled features."""
    setattr(model, name, nn.Identity())
    return model


def backbones(rounds: int, quick: bool, device: str) -> None:
    """Print the time of whole backbones with average pooling and the same weights, in training mode."""
    peers = torchvision.models
    cases = {
        "resnet18": (lambda: BackboneResnet(pool="avg"), peers.resnet18, "fc", (8, 3, 128, 128)),
        "resnet50": (lambda: BackboneResnet(name="resnet50", pool="avg"), peers.resnet50, "fc", (4, 3, 128, 128)),
        "r3d_18": (lambda: BackboneResnet3D(pool="avg"), peers.video.r3d_18, "fc", (2, 3, 8, 56, 56)),
        "inception_resnet_v2": (
            lambda: BackboneInceptionResnetV2(43, pool="avg"),
            lambda: timm.create_model("inception_resnet_v2"),
            "classif",
            (2, 3, 139, 139),
        ),
    }
    print("\n### Backbones\n\nA forward and a backward pass in training mode.")
    print_header("backbone", "input", "peer", "ours, ms", "peer, ms", "ours / peer", "aim")
    for name in list(cases)[: 1 if quick else None]:
        make_ours, make_peer, classifier, shape = cases[name]
        ours, peer = make_ours().to(device), without_classifier(make_peer(), classifier).to(device)
        x = torch.randn(shape, device=device)
        ours.load_state_dict({key: value for key, value in peer.state_dict().items() if key in ours.state_dict()})
        both = {"ours": partial(forward_and_backward, ours, x), "peer": partial(forward_and_backward, peer, x)}
        seconds = measure.take_turns(both, rounds, clock=clock_of(device))
        times = [f"{1000 * statistics.median(values):.0f}" for values in seconds.values()]
        library = "timm" if classifier == "classif" else "torchvision"
        print_row(name, f"`{shape}`", library, *times, f"{measure.ratio(seconds, 'ours', 'peer'):.3f}", "1.03")


def segmentation(backbone: nn.Module, channels: int) -> nn.Module:
    """A backbone and a linear head for two classes, from tensors to logits, as the peers' networks."""
    head = HeadDenseSegmentation("a", [("model.backbone_features", channels)], layers_description=())
    return ModelWrapDictToSeq(ModelMultiHead(backbone, [head], conv_inputs=["data.x"]), "model.logits.a", "data.x")


def classification(backbone: nn.Module, channels: int) -> nn.Module:
    """A backbone and a linear head for two classes, over a batch_dict."""
    head = Head1D("a", conv_inputs=[("model.backbone_features", channels)], layers_description=())
    return ModelMultiHead(backbone, [head], conv_inputs=["data.x"])


def nnunet(residual: bool, features: tuple[int, ...]) -> nn.Module:
    """nnU-Net's 3D network for one channel and two classes."""
    levels = len(features)
    plan = {
        "input_channels": 1,
        "n_stages": levels,
        "features_per_stage": list(features),
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, *[2] * (levels - 1)],
        "num_classes": 2,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }
    if residual:
        return ResidualEncoderUNet(
            n_blocks_per_stage=[1, 3, 4, 6][:levels], n_conv_per_stage_decoder=[1] * (levels - 1), **plan
        )
    return PlainConvUNet(n_conv_per_stage=[2] * levels, n_conv_per_stage_decoder=[2] * (levels - 1), **plan)


def networks(rounds: int, quick: bool, device: str) -> None:
    """Print the time of U-Nets, a decoder and a transformer with as many weights as the peer's, in training mode."""
    features = (16, 32, 64, 128)
    vit = {"embed_dim": 384, "depth": 6, "num_heads": 6}
    cases = {
        "`BackboneUNet`": (
            lambda: segmentation(BackboneUNet(1, 3, features), features[0]),
            lambda: nnunet(False, features),
            "nnU-Net",
            (2, 1, 32, 32, 32),
        ),
        "`BackboneUNet`, residual": (
            lambda: segmentation(BackboneUNet(1, 3, features, block="residual"), features[0]),
            lambda: nnunet(True, features),
            "nnU-Net",
            (2, 1, 32, 32, 32),
        ),
        "`DecoderUNet` on resnet50": (
            lambda: segmentation(DecoderUNet(BackboneResnet(name="resnet50")), 16),
            lambda: smp.Unet("resnet50", encoder_weights=None, classes=2),
            "segmentation-models-pytorch",
            (2, 3, 128, 128),
        ),
        "`BackboneViT`, small, 6 blocks": (
            lambda: BackboneViT(pool="class", **vit),
            lambda: timm.create_model("vit_small_patch16_224", num_classes=0, depth=vit["depth"]),
            "timm",
            (4, 3, 224, 224),
        ),
    }
    print("\n### U-Nets and transformers\n\nA forward and a backward pass in training mode.")
    print_header("network", "input", "peer", "ours, ms", "peer, ms", "ours / peer", "aim")
    for name in list(cases)[: 1 if quick else None]:
        make_ours, make_peer, library, shape = cases[name]
        ours, peer, x = make_ours().to(device), make_peer().to(device), torch.randn(shape, device=device)
        both = {"ours": partial(forward_and_backward, ours, x), "peer": partial(forward_and_backward, peer, x)}
        seconds = measure.take_turns(both, rounds, clock=clock_of(device))
        times = [f"{1000 * statistics.median(values):.0f}" for values in seconds.values()]
        print_row(name, f"`{shape}`", library, *times, f"{measure.ratio(seconds, 'ours', 'peer'):.3f}", "1.03")


class Nothing(nn.Module):
    """The least that a wrapped module can do."""

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        return x


class Copy(nn.Module):
    """The least that a model over a batch_dict can do."""

    def forward(self, batch_dict: NDict) -> NDict:
        """The batch_dict with an entry more."""
        batch_dict["model.y"] = batch_dict["data.x"]
        return batch_dict


def wrappers(rounds: int, _: bool, __: str) -> None:
    """Print what calling a module through a wrapper costs beyond calling the module."""
    ndict = measure.load_fuse_med_ml("fuse.utils.ndict").NDict
    theirs = measure.load_fuse_med_ml("fuse.dl.models.model_wrapper")
    module, model, x = Nothing(), Copy(), torch.zeros(4)
    keys = {"model": module, "model_outputs": ["model.y"]}
    by_order = ModelWrapSeqToDict(model_inputs=["data.x"], **keys)
    by_name = ModelWrapSeqToDict(model_inputs={"x": "data.x"}, **keys)
    plain = ModelWrapDictToSeq(model, "model.y", "data.x")
    their_wrapper = theirs.ModelWrapSeqToDict(model_inputs=["data.x"], **keys)
    their_plain = theirs.ModelWrapDictToSeq(model, "model.y", "data.x")
    tensordict_module = TensorDictModule(module, in_keys=[("data", "x")], out_keys=[("model", "y")])
    ours, peers = NDict({"data.x": x, "model.y": x}), ndict({"data.x": x, "model.y": x})
    tensors = TensorDict({"data": {"x": x}, "model": {"y": x}})
    contestants: dict[str, tuple[Run, str]] = {  # what is called, and what it wraps
        "the module": (lambda: module(x), ""),
        "`ModelWrapSeqToDict`": (lambda: by_order(ours), "the module"),
        "`ModelWrapSeqToDict`, inputs by name": (lambda: by_name(ours), "the module"),
        "FuseMedML's `ModelWrapSeqToDict`": (lambda: their_wrapper(peers), "the module"),
        "tensordict's `TensorDictModule`": (lambda: tensordict_module(tensors), "the module"),
        "the model over a batch_dict": (lambda: model(ours), ""),
        "`ModelWrapDictToSeq`": (lambda: plain(x), "the model over a batch_dict"),
        "FuseMedML's `ModelWrapDictToSeq`": (lambda: their_plain(x), "the model over a batch_dict"),
    }
    seconds = measure.take_turns({name: run for name, (run, _) in contestants.items()}, 20 * rounds, repeat=200)
    # The shortest times, as other work on the machine can only lengthen calls of a microsecond.
    best = {name: 1e6 * min(times) for name, times in seconds.items()}
    print("\n### Wrappers\n\nA call, and what a wrapper adds to what it wraps.")
    print_header("call", "µs", "adds, µs", "aim")
    for name, (_, wrapped) in contestants.items():
        added = f"{best[name] - best[wrapped]:.2f}" if wrapped else ""
        print_row(name, f"{best[name]:.2f}", added, "3" if name.startswith("`") else "")


def small_network(channels: int, in_channels: int, rank: int) -> nn.Module:
    """Two convolutions with normalization, and a linear layer; without convolutions at rank 0."""
    if rank == 0:
        layers = [nn.Linear(in_channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(channels, 10))
    convolution, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[rank]
    first = [convolution(in_channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    second = [convolution(channels, 2 * channels, 3, 2, 1), norm(2 * channels), nn.ReLU(), nn.Flatten(2)]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * channels, 10))


def loop_over(members: list[nn.Module], batch: NDict) -> tuple[Tensor, ...]:
    """The average of the probabilities as logits, the deviation and the majority vote, written by hand."""
    logits = torch.stack([member(batch.copy())["model.logits.a"] for member in members])
    average = logits.log_softmax(2).logsumexp(0) - math.log(len(members))
    votes = nn.functional.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    winners = votes == votes.amax(1, keepdim=True)
    return average, logits.std(0, correction=0), average.masked_fill(~winners, -torch.inf).argmax(1)


def ensemble_of(members: list[nn.Module], device: str, **options: Any) -> ModelEnsemble:
    """An ensemble that predicts on the device."""
    return ModelEnsemble(members, ["model.logits.a"], **options).to(device).eval()


def ensembles(rounds: int, quick: bool, device: str) -> None:
    """Print the time of ensembles of 8 small networks in eval mode, beside a loop that computes the same."""
    print("\n### Ensembles\n\nEight small networks in eval mode, without gradients.")
    print_header("network", "input", "loop, ms", "one after another / loop", "aim", "vmap / loop")
    shapes = {
        0: [(1, 32), (64, 32), (512, 32)],
        2: [(1, 3, 16, 16), (8, 3, 16, 16), (8, 3, 32, 32), (32, 3, 32, 32)],
        3: [(1, 1, 16, 16, 16), (2, 1, 32, 32, 32)],
    }
    for rank, channels in ((0, 64), (2, 4), (2, 16), (3, 8)):
        for shape in shapes[rank][: 1 if quick else None]:
            keys = {"model_inputs": ["data.x"], "model_outputs": ["model.logits.a"]}
            members = [ModelWrapSeqToDict(model=small_network(channels, shape[1], rank), **keys) for _ in range(8)]
            batch = NDict({"data.x": torch.randn(shape, device=device)})
            runs = {
                execution: partial(ensemble_of(members, device, execution=execution), batch)
                for execution in ("sequential", "vmap")
            }
            runs["loop"] = partial(loop_over, members, batch)
            with torch.inference_mode():
                seconds = measure.take_turns(runs, 3 * rounds, clock=clock_of(device))
            kind = f"{channels} units" if rank == 0 else f"{rank}D, {channels} channels"
            milliseconds = f"{1000 * statistics.median(seconds['loop']):.2f}"
            ratios = [f"{measure.ratio(seconds, execution, 'loop'):.2f}" for execution in ("sequential", "vmap")]
            print_row(kind, f"`{shape}`", milliseconds, ratios[0], "1.03", ratios[1])


def memory(_: int, __: bool, device: str) -> None:
    """Print the peak of the GPU's memory in a forward of an ensemble of ResNet-50, in eval mode."""
    if device != "cuda":
        print("\nThe table of memory needs --device cuda.")
        return
    print("\n### Memory of ensembles\n\nPeak of weights and activations on the GPU in a forward without gradients.")
    print_header("ensemble", "input", "peak, MB", "over one member", "aim")
    shape = (4, 3, 224, 224)
    peaks: dict[str, float] = {}
    for name, number, low_memory in (
        ("one member", 1, False),
        ("5 members", 5, False),
        ("5 members, `low_memory=True`", 5, True),
    ):
        members = [classification(BackboneResnet(name="resnet50", pool="avg"), 2048) for _ in range(number)]
        model = ensemble_of(members, device, low_memory=low_memory)
        batch = NDict({"data.x": torch.randn(shape, device=device)})
        with torch.inference_mode():
            model(batch.copy())  # chooses algorithms
        weights = sum(tensor.nbytes for tensor in model.state_dict().values() if tensor.is_cuda)
        with torch.inference_mode():
            peaks[name] = weights + measure.peak_growth(partial(model, batch), device)
        over = peaks[name] / peaks["one member"]
        print_row(name, f"`{shape}`", f"{peaks[name] / 1e6:.0f}", f"{over:.2f}", "1" if low_memory else "")


TABLES = {
    "backbones": backbones,
    "networks": networks,
    "wrappers": wrappers,
    "ensembles": ensembles,
    "memory": memory,
}


def main(arguments: argparse.Namespace) -> None:
    """Print the tables asked for."""
    measure.print_versions(
        "torchvision",
        "timm",
        "dynamic-network-architectures",
        "segmentation-models-pytorch",
        "fuse-med-ml",
        "tensordict",
        device=arguments.device,
    )
    for name in arguments.tables:
        TABLES[name](arguments.rounds, arguments.quick, arguments.device)


if __name__ == "__main__":
    parser = measure.options_of(__doc__, rounds=15, threads=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    main(measure.parse(parser))
