"""Inputs that a batch or a sample may lack, and what takes their place."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.fx
from torch import Tensor, nn

from fuse_core import did_you_mean

from ..argument_checks import check_option, plain_key

Substitute = Literal["learned", "zero"]


class OptionalInputs(nn.Module):
    """An embedding in place of each input that is missing.

    A whole batch lacks an input `K` if the batch_dict lacks the key or holds None. Single samples lack it if the
    batch_dict holds a mask, `K_present`, of shape (batch,), that is False (or 0) there, whatever their values are; or
    if the batch_dict holds a list with None there, which is what collating gives.

    `substitutes` hold for each optional key `"learned"`, a vector that is trained, at first zeros, or `"zero"`; `sizes`
    the sizes of these vectors. `owner` and its `argument` that declares the keys are named in errors.
    """

    def __init__(
        self, substitutes: Mapping[str, Substitute] | None, sizes: Mapping[str, int], owner: str, argument: str
    ) -> None:
        super().__init__()
        self.keys = tuple(map(plain_key, substitutes or ()))
        for key, substitute in (substitutes or {}).items():
            if key not in sizes:
                known = ", ".join(map(repr, sizes)) or "here none"
                raise ValueError(
                    f"{owner}(optional_inputs=) takes keys of {argument}, {known}, got {key!r}."
                    f"{did_you_mean(key, sizes)}"
                )
            check_option(substitute, get_args(Substitute), f"{owner}(optional_inputs={{{key!r}: ...}})")
            vector = torch.zeros(sizes[key])
            if substitute == "learned":
                self.register_parameter(_name(key), nn.Parameter(vector))
            else:
                self.register_buffer(_name(key), vector, persistent=False)
        self.optional_reads = tuple(name for key in self.keys for name in (key, f"{key}_present"))

    def read(self, batch_dict: Mapping[str, Any], key: str) -> tuple[Any, Tensor | None]:
        """The input, or None if the whole batch lacks it, and the mask of the samples that have it, or None for all."""
        value: Any = batch_dict.get(key)
        mask: Any = batch_dict.get(f"{key}_present")
        if isinstance(value, list):
            known = next((torch.as_tensor(sample) for sample in value if sample is not None), None)
            if known is None:
                return None, None
            substitute: Tensor = getattr(self, _name(key))  # tells the device, to which lists may not have been moved
            listed = torch.tensor([sample is not None for sample in value], device=substitute.device)
            samples = [torch.zeros_like(known) if sample is None else torch.as_tensor(sample) for sample in value]
            value = torch.stack(samples).to(substitute.device)
            mask = listed if mask is None else listed & torch.as_tensor(mask, device=listed.device).bool().reshape(-1)
        if value is None or mask is None:
            return value, None
        mask = torch.as_tensor(mask, device=value.device).bool()
        if isinstance(value, Tensor) and mask.numel() != value.shape[0]:
            raise ValueError(
                f"'{key}_present' has one entry for each of the {value.shape[0]} samples, but its shape is "
                f"{tuple(mask.shape)}."
            )
        return value, mask

    def substitute(self, key: str, like: Tensor) -> Tensor:
        """The vector of a key, in the precision and on the device of `like`, of shape (1, size)."""
        vector: Tensor = getattr(self, _name(key))
        return vector.to(like)[None]

    def fill(self, key: str, features: Tensor, present: Tensor | None) -> Tensor:
        """The features, `(batch, size, *spatial)`, with the vector where a sample lacks the input."""
        return _filled(features, self.substitute(key, features), present)


@torch.fx.wrap  # torch.fx records it as one call: its code reads `ndim`, which a traced value does not have
def _filled(features: Tensor, vector: Tensor, present: Tensor | None) -> Tensor:
    if present is None:
        present = features.new_ones(features.shape[0], dtype=torch.bool)  # so that the vector has a gradient, of 0
    ones = [1] * (features.ndim - 2)
    return torch.where(present.reshape(-1, 1, *ones), features, vector.reshape(1, -1, *ones))


def _name(key: str) -> str:
    return key.replace(".", "__")
