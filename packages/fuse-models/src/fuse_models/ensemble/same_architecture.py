"""Finds a difference between modules other than the values of their parameters and buffers."""

import functools
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

MACHINERY = frozenset(vars(nn.Module()))
"""The attributes of every module: dictionaries of parameters, submodules and hooks, and the training flag."""


def architecture_difference(first: nn.Module, second: nn.Module) -> str | None:
    """The first difference of two modules other than the values of their parameters and buffers; None if there is none.

    Compares the types and names of submodules, the shapes, dtypes and devices of parameters and buffers, and all other
    attributes, such as a stride. Attributes that cannot be compared, such as objects without `__eq__`, count as
    different.
    """
    ours, theirs = dict(first.named_modules()), dict(second.named_modules())
    if list(ours) != list(theirs):
        only_one = sorted(set(ours) ^ set(theirs))
        return f"submodules: {', '.join(map(repr, only_one))} in one only" if only_one else "the order of submodules"
    for name, module in ours.items():
        other = theirs[name]
        where = f" of {name!r}" if name else ""
        if type(module) is not type(other):
            return f"the type{where}: {type(module).__name__} and {type(other).__name__}"
        attributes, others = _own(module), _own(other)
        for attribute in dict.fromkeys((*attributes, *others)):
            a, b = attributes.get(attribute), others.get(attribute)
            if not _equal(a, b):
                return f"attribute {attribute!r}{where}: {a!r} and {b!r}"
    states = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in (first, second)]
    for name in dict.fromkeys((*states[0], *states[1])):
        ours_is, theirs_is = (_described(state.get(name)) for state in states)
        if ours_is != theirs_is:
            return f"{name!r}: {ours_is} and {theirs_is}"
    return None


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in MACHINERY}


def _described(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    if is_lazy(tensor):
        return "not initialized yet"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"


def _equal(a: Any, b: Any) -> bool:
    try:
        return _compared(a, b)
    except Exception:  # an __eq__ without a truth value, or a list that holds itself
        return False


def _compared(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, RemovableHandle):  # of a hook, as lazy modules have one
        return True
    if isinstance(a, Tensor):
        return a.device == b.device and torch.equal(a, b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_compared(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_compared, a, b))
    if isinstance(a, functools.partial):
        return _compared((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, FunctionType):
        return _compared(_parts(a), _parts(b))
    return bool(a == b)


def _parts(function: FunctionType) -> tuple[Any, ...]:
    """The parts that decide what a function does. A lambda in a factory is a new object in each call."""
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__code__, function.__defaults__, function.__kwdefaults__, enclosed, function.__module__
