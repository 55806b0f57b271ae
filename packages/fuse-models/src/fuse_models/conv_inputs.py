"""The inputs of a backbone or head: their keys, their channels, and their concatenation on the channel axis."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Proxy

from fuse_core import read_key

from .argument_checks import is_positive, plain_key

BatchDict = TypeVar("BatchDict", bound=MutableMapping[str, Any])
"""The nested dictionary that components take and return: an NDict or a plain dict."""

ConvInput = str | tuple[str, int]
"""A key, or a key and its number of channels."""

ConvInputs = tuple[tuple[str, int | None], ...]
"""Keys with their number of channels, None if it was not declared."""


def parse_conv_inputs(conv_inputs: Sequence[ConvInput], argument: str) -> ConvInputs:
    """Each input as `(key, channels)`, where `channels` is None if it was not given.

    Example:
        >>> parse_conv_inputs(["data.image", ("data.mask", 1)], "ModelMultiHead(conv_inputs=)")
        (('data.image', None), ('data.mask', 1))
    """
    listed = [] if isinstance(conv_inputs, str) or not isinstance(conv_inputs, Iterable) else list(conv_inputs)
    pairs: list[Any] = [(entry, None) if isinstance(entry, str) else entry for entry in listed]
    if not pairs or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(
            f"{argument} takes a non-empty sequence of keys or of (key, channels) pairs, got {conv_inputs!r}. "
            f"For one input, use [key] or [(key, channels)]."
        )
    return tuple((plain_key(key), None if channels is None else int(channels)) for key, channels in pairs)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
        return False
    return pair[1] is None or is_positive(pair[1])


def read_conv_inputs(batch_dict: Mapping[str, Any], conv_inputs: ConvInputs, reader: str) -> list[Tensor]:
    """The inputs, each of shape (N, channels, ...) where it declares its channels; `reader` is named in errors."""
    tensors = []
    for key, channels in conv_inputs:
        tensor = read_key(batch_dict, key, reader)
        has_channels = isinstance(tensor, Tensor) and tensor.shape[1:2] == (channels,)
        if channels is not None and not has_channels and not is_symbolic(tensor):
            raise ValueError(
                f"{reader} expects {key!r} to have {channels} channels (axis 1), but {found(tensor)}. Declare the "
                f"channels that it has, or give another input."
            )
        tensors.append(tensor)
    return tensors


def is_symbolic(value: object) -> bool:
    """Whether `torch.fx.symbolic_trace` put a stand-in without a shape in the place of an input."""
    return isinstance(value, Proxy)


def found(value: object) -> str:
    """Describes an input in an error message."""
    return f"its shape is {tuple(value.shape)}" if isinstance(value, Tensor) else f"it is a {type(value).__name__}"


def concatenate_channels(tensors: Sequence[Tensor], names: Iterable[str], owner: str) -> Tensor:
    """`torch.cat(tensors, dim=1)`, with a `ValueError` of the owner that names the tensors if other axes differ."""
    first, *others = tensors
    if not others:
        return first
    if any(map(is_symbolic, tensors)):
        return torch.cat(list(tensors), dim=1)
    rest = first.shape[:1] + first.shape[2:]
    if any(tensor.ndim < 2 or tensor.shape[:1] + tensor.shape[2:] != rest for tensor in tensors):
        shapes = ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True))
        raise ValueError(
            f"{owner} concatenates on the channel axis (1), for which all other axes must be equal, got {shapes}."
        )
    return torch.cat(list(tensors), dim=1)
