"""The names that FuseMedML 0.4.1 gives weights, and modules whose `load_state_dict` takes them."""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Weights = Mapping[str, Tensor]

APPENDED = re.compile(r"\b(append_features_module|tabular_module)\.classifier\.")
CLASSIFIER = re.compile(r"\b(head_module|classifier_head_module|conv_classifier_3d)\.classifier\.")
STREAM = re.compile(r"(^|\.)backbones\.(\d+\.)")
STREAM_NAME = re.compile(r"(?:^|\.)backbone_streams\.(\d+)\.(.*)")
UNUSED = re.compile(r"repeat_1\.\d+\.conv2d\.(weight|bias)$")


class TakesFuseMedMLStateDict(nn.Module):
    """Loads FuseMedML's state dicts also where only `load_state_dict` is called, as in `load_from_checkpoint`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        given = {name.removeprefix(prefix): name for name in state_dict if name.startswith(prefix)}
        own = dict(chain(self.named_parameters(remove_duplicate=False), self.named_buffers(remove_duplicate=False)))
        if given.keys() - own.keys():
            weights = {name: state_dict.pop(full_name) for name, full_name in given.items()}
            renamed = rename_fusemedml(weights, own)
            state_dict.update({prefix + name: weight for name, weight in renamed.items() if weight is not None})
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def rename_fusemedml(weights: Weights, own: Weights) -> dict[str, Tensor | None]:
    """The heads' layers for appended features become `append_layers`, the others `classifier`.

    FuseMedML's layers are 2D or 3D convolutions of kernel 1 where ours are linear, so that shapes lose their trailing
    ones. Its `ModelMultistream` registers each stream twice, and streams that share their weights once more each. Its
    cut Inception-ResNet-v2 has a convolution that it never uses.
    """
    renamed: dict[str, Tensor | None] = {}
    for name, tensor in _without_shared_streams(weights, own).items():
        if STREAM.sub(r"\1backbone_streams.\2", name) in weights.keys() - {name}:
            continue
        new = CLASSIFIER.sub("classifier.", APPENDED.sub("append_layers.", name))
        candidates = [new, new.replace("classifier.", "classifier.layers.")]  # the latter in dense heads
        if new != name and name not in own:
            for candidate in candidates:
                target = next((weight for own_name, weight in own.items() if candidate.endswith(own_name)), None)
                if target is not None:
                    name, tensor = candidate, _without_kernel(tensor, target)
        renamed[name] = None if _is_unused(name, own) else tensor
    return renamed


def _without_kernel(tensor: Tensor, target: Tensor) -> Tensor:
    """The weights of a convolution of kernel 1 in the shape of a linear layer's; others as they are."""
    if is_lazy(target):
        return tensor.flatten(1) if tensor.ndim > 2 else tensor
    has_kernel_of_one = tensor.shape[:2] == target.shape[:2] and tensor.numel() == target.numel()
    return tensor.reshape(target.shape) if has_kernel_of_one else tensor


def _without_shared_streams(weights: Weights, own: Weights) -> Weights:
    """The weights with equal streams once and numbered anew, if there are more streams than the module has."""
    streams = _streams(weights)
    if not 0 < len(_streams(own)) < len(streams):
        return weights
    unique: dict[str, str] = {}
    for number in sorted(streams, key=int):
        if not any(_are_equal(streams[number], streams[other]) for other in unique):
            unique[number] = str(len(unique))
    kept = {}
    for name, tensor in weights.items():
        match = STREAM_NAME.search(name)
        if match is None:
            kept[name] = tensor
        elif match[1] in unique:
            kept[f"{name[: match.start(1)]}{unique[match[1]]}.{match[2]}"] = tensor
    return kept


def _streams(weights: Weights) -> dict[str, dict[str, Tensor]]:
    streams: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if match := STREAM_NAME.search(name):
            streams.setdefault(match[1], {})[match[2]] = tensor
    return streams


def _are_equal(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def _is_unused(name: str, own: Weights) -> bool:
    """Whether this is the convolution after the branches with which the module's network ends."""
    unused = UNUSED.search(name)
    if unused is None:
        return False
    block = unused[0].rpartition("conv2d.")[0]
    return not any(f"{block}conv2d." in other for other in own) and any(f"{block}branch" in other for other in own)
