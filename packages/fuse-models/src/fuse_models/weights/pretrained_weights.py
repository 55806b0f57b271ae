"""Loads weights that others trained into a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .fitting import misfit
from .state_dict_file import load_state_dict_file


@runtime_checkable
class DownloadableWeights(Protocol):
    """A member of a torchvision weights enum, such as `torchvision.models.ResNet18_Weights.DEFAULT`."""

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
    """Load weights into a backbone. All must fit, except those of the classifier, which a backbone does not have.

    If the backbone has another number of input channels, the first convolution's weights are adapted by
    `adapt_input_channels`.

    Args:
        backbone: the module to load into.
        weights: a state dict, the path of a file (see `load_state_dict_file`), or a torchvision weights enum, which
            downloads its file unless it is in torch's cache.
        first_convolution: the name of the convolution that takes the input.
        classifiers: the names of classifiers; these and names below them are left out.
        unused: more names to leave out.

    Raises:
        TypeError: `weights` is of another type.
        ValueError: a name is missing or unknown, or a shape differs; lists them.
    """
    owner = type(backbone).__name__
    left_out = tuple(f"{name}." for name in (*classifiers, *unused))
    loaded = {name: tensor for name, tensor in _read(weights, owner).items() if not name.startswith(left_out)}
    own = backbone.state_dict()
    first_weight = f"{first_convolution}.weight"
    if first_weight in loaded and loaded[first_weight].ndim == own[first_weight].ndim:
        loaded[first_weight] = adapt_input_channels(loaded[first_weight], own[first_weight].shape[1])
    misfits = misfit(own, loaded)
    if misfits:
        raise ValueError(
            f"{owner}(weights=) takes the weights of the same architecture, but these do not fit: {misfits}. Check the "
            f"depth, the other arguments, and whether the names have a prefix to be removed."
        )
    backbone.load_state_dict(own | loaded)


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weights for another number of input channels.

    For one channel they are summed: a grey image then gives the same as when it is repeated over the channels. For
    other numbers they are repeated cyclically (R, G, B, R, …) and scaled by `old / new`, which keeps the size of the
    activations.

    Args:
        weight: `(out_channels, old, *kernel)`.
        in_channels: the new number.

    Returns:
        `(out_channels, in_channels, *kernel)`; `weight` itself if the number is the same.

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
