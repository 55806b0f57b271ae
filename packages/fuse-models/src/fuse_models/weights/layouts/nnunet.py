"""The names of nnU-Net's dynamic U-Nets."""

import re
from collections.abc import Mapping

from torch import Tensor


def rename_nnunet(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """`BackboneUNet` has nnU-Net's names; each weight stands there once, and the classifying layers are in the head.

    For a model with a `BackboneUNet` and one `HeadDenseSegmentation(layers_description=())`, the layers of the network
    become `backbone` and those for the classes, of which nnU-Net counts the coarsest first, become `heads.0`.
    """
    renamed: dict[str, Tensor | None] = {}
    has_head = any(name.startswith("backbone.decoder.transpconvs.") for name in own)
    prefix = "backbone." if has_head else ""
    levels = [int(match[1]) for name in weights if (match := re.search(r"decoder\.seg_layers\.(\d+)\.", name))]
    for name, tensor in weights.items():
        if ".all_modules." in name or "decoder.encoder." in name:
            continue
        name = re.sub(r"\b(encoder|decoder)\.", rf"{prefix}\1.", name, count=1)
        match = re.search(r"backbone\.decoder\.seg_layers\.(\d+)\.(weight|bias)$", name)
        if match:
            level = max(levels) - int(match[1])
            layer = "classifier.layers.0" if level == 0 else f"deep_classifiers.{level - 1}.layers.0"
            name = f"{name[: match.start()]}heads.0.{layer}.{match[2]}"
            if level > 0 and name not in own:
                renamed[name] = None  # of a network that is not supervised at several levels any more
                continue
            tensor = tensor.flatten(2) if tensor.ndim > 2 else tensor
        renamed[name] = tensor
    return renamed
