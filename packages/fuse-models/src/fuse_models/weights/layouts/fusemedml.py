"""The names of FuseMedML 0.4.1."""

import re
from collections.abc import Mapping

from torch import Tensor

APPENDED = re.compile(r"\b(append_features_module|tabular_module)\.classifier\.")
CLASSIFIER = re.compile(r"\b(head_module|classifier_head_module|conv_classifier_3d)\.classifier\.")
CUT_BLOCK = re.compile(r"\b(repeat_1\.\d+\.conv2d\.(weight|bias))$")
STREAM = re.compile(r"\bbackbones\.(?=\d+\.)")


def rename_fusemedml(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In heads, the layers for appended features become `append_layers`, the others `classifier`.

    FuseMedML's layers are 2D or 3D convolutions of kernel 1 where ours are linear, so that shapes lose their trailing
    ones. Two kinds of weights are left out: those of `ModelMultistream` that stand in `backbone_streams` too, and the
    convolution of an Inception-ResNet's cut block, which its forward never uses.
    """
    renamed = {}
    for name, tensor in weights.items():
        cut = CUT_BLOCK.search(name)
        is_unused = cut is not None and not any(own_name.endswith(cut[1]) for own_name in own)
        is_twice = STREAM.search(name) is not None and STREAM.sub("backbone_streams.", name) in weights
        if is_unused or is_twice:
            continue
        new = CLASSIFIER.sub("classifier.", APPENDED.sub("append_layers.", name))
        candidates = [new, new.replace("classifier.", "classifier.layers.")]  # the latter in dense heads
        if new != name:
            for candidate in candidates:
                target = next((weight for own_name, weight in own.items() if candidate.endswith(own_name)), None)
                if target is not None:
                    has_kernel_of_one = tensor.shape[:2] == target.shape[:2] and tensor.numel() == target.numel()
                    new, tensor = candidate, tensor.reshape(target.shape) if has_kernel_of_one else tensor
        renamed[new] = tensor
    return renamed
