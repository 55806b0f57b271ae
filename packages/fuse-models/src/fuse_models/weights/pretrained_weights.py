"""Weights that others trained, put into a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .state_dict_file import load_state_dict_file


@runtime_checkable
class DownloadableWeights(Protocol):
    """What a torchvision weights enum offers, such as `torchvision.models.ResNet18_Weights.DEFAULT`."""

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> Mapping[str, Tensor]:
        """The state dict, from the cache or the internet."""


Weights = Mapping[str, Tensor] | str | Path | DownloadableWeights


def load_pretrained_weights(
    backbone: nn.Module,
    weights: Weights,
    *,
    first_convolution: str,
    classifiers: tuple[str, ...],
    unused: tuple[str, ...] = (),
) -> None:
    """Load weights into a backbone. All must fit, except for those of the classifier, which a backbone does not have.

    Where the backbone takes another number of input channels, the first convolution's weights are adapted; see
    `adapt_input_channels`. Counts of batches, which old checkpoints lack, stay as they are.

    Args:
        backbone: the module to load into.
        weights: a state dict, the path of a file (see `load_state_dict_file`), or a torchvision weights enum, which
            downloads when its file is not in torch's cache.
        first_convolution: the name of the convolution that takes the input.
        classifiers: the names that classifiers have; what is called so or lies below is left out.
        unused: more names to leave out.

    Raises:
        TypeError: `weights` is none of these.
        ValueError: a name is missing or unknown, or a shape differs. Lists them.
    """
    owner = type(backbone).__name__
    left_out = tuple(f"{name}." for name in (*classifiers, *unused))
    loaded = {name: tensor for name, tensor in _read(weights, owner).items() if not name.startswith(left_out)}
    own = backbone.state_dict()
    first_weight = f"{first_convolution}.weight"
    if first_weight in loaded and loaded[first_weight].ndim == own[first_weight].ndim:
        loaded[first_weight] = adapt_input_channels(loaded[first_weight], own[first_weight].shape[1])
    missing = [name for name in own if name not in loaded and not name.endswith(".num_batches_tracked")]
    unknown = [name for name in loaded if name not in own]
    misfits = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in loaded.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if missing or unknown or misfits:
        found = {"missing": missing, "unknown": unknown, "of another shape": misfits}
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in found.items() if names)
        raise ValueError(
            f"{owner}(weights=) takes the weights of the same architecture, but these do not fit: {listed}. Check the "
            f"depth, the other arguments, and whether the names have a prefix to be removed."
        )
    backbone.load_state_dict(own | loaded)


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weights for another number of input channels.

    For one channel they are summed, so that a grey image gives what it would give repeated over the channels. For
    others they are repeated cyclically (R, G, B, R, …) and scaled by `old / new`, which keeps the size of the
    activations.

    Args:
        weight: `(out_channels, old, *kernel)`.
        in_channels: the new number.

    Returns:
        `(out_channels, in_channels, *kernel)`; `weight` itself where the number is the same.

    Example:
        >>> rgb = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
        >>> adapt_input_channels(rgb, 1).flatten().tolist(), adapt_input_channels(rgb, 4).flatten().tolist()
        ([6.0], [0.75, 1.5, 2.25, 0.75])
    """
    old = weight.shape[1]
    if old == in_channels:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(in_channels) % old] * (old / in_channels)


def _read(weights: Weights, owner: str) -> Mapping[str, Tensor]:
    if isinstance(weights, str | Path):
        return load_state_dict_file(weights)
    if isinstance(weights, Mapping):
        return weights
    if isinstance(weights, DownloadableWeights) and not isinstance(weights, type):
        return weights.get_state_dict(progress=True, check_hash=True)
    raise TypeError(
        f"{owner}(weights=) takes a state dict, the path of one, or a member of a torchvision weights enum such as "
        f"ResNet18_Weights.DEFAULT, got {weights!r}."
    )


def _listed(names: list[str], at_most: int = 4) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
