"""Values that a checkpoint can hold: `torch.load` reads them without running code."""

import operator
from collections import Counter, OrderedDict
from pathlib import PurePath
from types import FunctionType
from typing import Any

import numpy as np
import torch

_EXACT = {type(None), bool, int, float, complex, str, bytes, bytearray, Counter}
_EXACT |= {torch.dtype, torch.device, torch.layout, torch.Size}


class NotPlainError(TypeError):
    """A value cannot be stored; `place` says where it is, such as `optimizer_states[0].param_groups[0].lr`."""

    def __init__(self, value: Any, place: str) -> None:
        argument = place.partition("hyper_parameters.")[2]
        how = f" with save_hyperparameters(ignore=[{argument!r}])" if argument else ""
        super().__init__(
            f"{place!r} in the checkpoint is a {type(value).__module__}.{type(value).__qualname__}. Only plain values "
            f"can be read again without running code: numbers, strings, tensors, and lists and dicts of them. Use "
            f"those, or leave it out{how}."
        )
        self.place = place


def as_plain(value: Any, place: str = "") -> Any:
    """The value with plain values in place of NumPy's numbers and arrays, paths, and subclasses of plain types.

    An array of numbers becomes a tensor, and a tensor of a subclass a plain one, unless the class was registered with
    `torch.serialization.add_safe_globals`. A collection in which nothing changes is returned itself.

    Args:
        value: the value.
        place: where it is, for messages.

    Raises:
        NotPlainError: a part of the value is an object of another class.

    Example:
        >>> as_plain({"lr": np.float64(0.1), "path": PurePath("runs/a"), "betas": (0.9, np.float32(0.5))})
        {'lr': 0.1, 'path': 'runs/a', 'betas': (0.9, 0.5)}
    """
    kind = type(value)
    if kind in _EXACT:
        return value
    if isinstance(value, torch.Tensor):  # a subclass of others, such as MONAI's, is a class to import
        is_known = kind.__module__.partition(".")[0] == "torch" or _is_safe(kind)
        return value if is_known else value.detach().as_subclass(torch.Tensor)
    if isinstance(value, dict):
        kept = ((key, one) for key, one in value.items() if not _is_of_swalr(one))
        pairs = {as_plain(key, place): as_plain(one, _within(place, key)) for key, one in kept}
        before, after = ([*one.keys(), *one.values()] for one in (value, pairs))
        same = kind in (dict, OrderedDict) and len(before) == len(after) and all(map(operator.is_, before, after))
        return value if same else OrderedDict(pairs) if isinstance(value, OrderedDict) else pairs
    if isinstance(value, list | tuple | set | frozenset):
        parts = [as_plain(one, f"{place}[{i}]") for i, one in enumerate(value)]
        plain = list if isinstance(value, list) else tuple if isinstance(value, tuple) else set
        return value if kind is plain and all(a is b for a, b in zip(parts, value, strict=True)) else plain(parts)
    if isinstance(value, np.generic) and type(value.item()) is not kind:
        return as_plain(value.item(), place)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or value.dtype.type in (np.longdouble, np.clongdouble):
            return as_plain(value.tolist(), place)
        return torch.tensor(np.array(value, value.dtype.newbyteorder("="), order="C"))  # torch knows no other layout
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, str):  # of a subclass, such as an enumeration; `str(value)` would be its name
        return str.__str__(value)
    for plain_type in (int, float, complex, bytes):
        if isinstance(value, plain_type):
            return plain_type(value)  # type: ignore[arg-type]
    if _is_safe(kind):
        return value
    raise NotPlainError(value, place)


def _is_safe(kind: type) -> bool:
    """Whether a class was registered with `torch.serialization.add_safe_globals`, by the name that is stored."""
    registered = torch.serialization.get_safe_globals()
    return kind in registered or (kind, f"{kind.__module__}.{kind.__qualname__}") in registered


def _is_of_swalr(value: Any) -> bool:
    """Whether a value is the function that SWALR stores in torch 2.6. Left out, it is that of the resumed SWALR."""
    return isinstance(value, FunctionType) and value.__qualname__.startswith("SWALR.")


def _within(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
