"""What a layout takes and returns."""

from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]

Renamed = dict[str, Tensor | None]
"""The weights by the module's names; None for those that the module does not need."""
