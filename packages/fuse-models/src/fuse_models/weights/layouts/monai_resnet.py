"""The names of MONAI's and MedicalNet's 3D ResNets."""

import re
from collections.abc import Mapping

from torch import Tensor


def rename_monai_resnet(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """`conv1, bn1, layer1.0.conv1, layer1.0.bn1` become `stem.0, stem.1, layer1.0.conv1.0, layer1.0.conv1.1`.

    MONAI's shortcuts may have a bias, which the batch normalization behind them takes away: it is subtracted from the
    running mean.
    """
    if "stem.0.weight" not in own:
        return dict(weights)
    renamed: dict[str, Tensor | None] = {}
    for name, tensor in weights.items():
        name = re.sub(r"(layer\d+\.\d+\.)conv(\d)\.(weight|bias)$", r"\1conv\2.0.\3", name)
        name = re.sub(r"(layer\d+\.\d+\.)bn(\d)\.", r"\1conv\2.1.", name)
        name = re.sub(r"(^|\.)conv1\.(weight|bias)$", r"\1stem.0.\2", name)
        renamed[re.sub(r"(^|\.)bn1\.", r"\1stem.1.", name)] = tensor
    for name in [name for name in renamed if name.endswith("downsample.0.bias") and name not in own]:
        mean_name = name.replace("downsample.0.bias", "downsample.1.running_mean")
        bias, mean = renamed[name], renamed.get(mean_name)
        if bias is not None and mean is not None:
            renamed[mean_name] = mean - bias
            del renamed[name]
    return renamed
