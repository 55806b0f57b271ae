"""Rules that rename the weights of other projects, one file for each layout of names."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .fusemedml import rename_fusemedml
from .monai_resnet import rename_monai_resnet
from .nnunet import rename_nnunet

Weights = Mapping[str, Tensor]

MONAI_RESNET = "MONAI's and MedicalNet's 3D ResNets"

LAYOUTS: dict[str, Callable[[Weights, Weights], dict[str, Tensor | None]]] = {
    "FuseMedML's models": rename_fusemedml,
    MONAI_RESNET: rename_monai_resnet,
    "nnU-Net's U-Nets": rename_nnunet,
}
"""Each rule takes the weights and the module's own, and returns the weights under the module's names. Names that it
does not know stay as they are. None marks weights that the module does not need."""
