"""The names of FuseMedML's heads."""

import re
from collections.abc import Mapping

from torch import Tensor

APPENDED = re.compile(r"\b(append_features_module|tabular_module)\.classifier\.")
CLASSIFIER = re.compile(r"\b(head_module|classifier_head_module|conv_classifier_3d)\.classifier\.")


def rename_fusemedml_heads(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layers for appended features become `append_layers`, the others `classifier`.

    FuseMedML's layers are 2D or 3D convolutions of kernel 1 where ours are linear, so that shapes lose their trailing
    ones.
    """
    renamed = {}
    for name, tensor in weights.items():
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
