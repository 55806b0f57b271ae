"""The names of FuseMedML's models."""

import re

from .renamed import Renamed, Weights

APPENDED = re.compile(r"\b(append_features_module|tabular_module)\.classifier\.")
CLASSIFIER = re.compile(r"\b(head_module|classifier_head_module|conv_classifier_3d)\.classifier\.")
STREAM = re.compile(r"(^|\.)backbones\.(\d+\.)")
UNUSED = re.compile(r"repeat_1\.\d+\.conv2d\.(weight|bias)$")


def rename_fusemedml(weights: Weights, own: Weights) -> Renamed:
    """The heads' layers for appended features become `append_layers`, the others `classifier`.

    FuseMedML's layers are 2D or 3D convolutions of kernel 1 where ours are linear, so that shapes lose their trailing
    ones. Its `ModelMultistream` registers each stream twice, and its cut Inception-ResNet-v2 has a convolution that it
    never uses.
    """
    renamed: Renamed = {}
    for name, tensor in weights.items():
        if STREAM.sub(r"\1backbone_streams.\2", name) in weights.keys() - {name}:
            continue
        new = CLASSIFIER.sub("classifier.", APPENDED.sub("append_layers.", name))
        candidates = [new, new.replace("classifier.", "classifier.layers.")]  # the latter in dense heads
        if new != name:
            for candidate in candidates:
                target = next((weight for own_name, weight in own.items() if candidate.endswith(own_name)), None)
                if target is not None:
                    has_kernel_of_one = tensor.shape[:2] == target.shape[:2] and tensor.numel() == target.numel()
                    new, tensor = candidate, tensor.reshape(target.shape) if has_kernel_of_one else tensor
        renamed[new] = None if _is_unused(name, own) else tensor
    return renamed


def _is_unused(name: str, own: Weights) -> bool:
    """Whether this is the convolution after the branches with which the module's network ends."""
    unused = UNUSED.search(name)
    if unused is None:
        return False
    block = unused[0].rpartition("conv2d.")[0]
    return not any(f"{block}conv2d." in other for other in own) and any(f"{block}branch" in other for other in own)
