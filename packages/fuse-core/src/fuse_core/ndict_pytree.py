"""NDicts as nodes of torch's pytrees, so that torch.func, torch.export and others see the tensors inside."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

_NODES: set[type] = set()
_PLAIN = frozenset((str, int, float, bool, complex, bytes, bytearray, range, torch.Size, type(None)))


def register(node: type, rebuilt: Any = None) -> None:
    """Make a subclass of NDict a node of pytrees, or a view, which is rebuilt as the type `rebuilt`."""
    _NODES.add(node)

    def unflatten(values: Iterable[Any], keys: Sequence[str]) -> Any:
        empty = dict.__new__(rebuilt or node)
        empty._set_attributes(getattr(keys, "attributes", {}))
        return empty._with_results(zip(keys, values, strict=True))

    pytree.register_pytree_node(
        node,
        _flatten,
        unflatten,
        serialized_type_name=f"{node.__module__}.{node.__qualname__}",
        flatten_with_keys_fn=_flatten_with_keys,
    )


class _Keys(list[str]):
    """The keys of an instance of a subclass, and the attributes of the instance."""

    attributes: dict[str, Any]


def _flatten(mapping: Any) -> tuple[list[Any], list[str]]:
    keys = list(mapping)
    if isinstance(mapping, dict) and (attributes := mapping._attributes()):  # type: ignore[attr-defined]
        keys = _Keys(keys)
        keys.attributes = attributes
    return list(mapping.values()), keys


def _flatten_with_keys(mapping: Mapping[str, Any]) -> tuple[list[tuple[pytree.KeyEntry, Any]], list[str]]:
    values, keys = _flatten(mapping)
    return [(pytree.MappingKey(key), value) for key, value in zip(keys, values, strict=True)], keys


def map_tensors(fn: Callable[[Tensor], Any], value: Any, method: str | None = None, *arguments: Any) -> Any:
    """`value` with `fn` applied to its tensors: itself, or those in mappings, sequences, dataclasses and pytrees.

    An object with the method `method` is replaced by `object.method(*arguments)`.
    """
    if type(value) is list and _holds_plain_values(value):
        return value.copy()

    def mapped(part: Any) -> Any:
        kind = type(part)
        if isinstance(part, Tensor):
            return fn(part)
        if kind in _PLAIN or isinstance(part, type):
            return part
        if kind is list or kind is tuple:
            return kind(map(mapped, part))
        if kind in _NODES:  # `fn` handles the tensors in an NDict
            return part.copy()._mapped(fn, method, *arguments)
        if method is not None and callable(getattr(part, method, None)):
            result = getattr(part, method)(*arguments)
            part = part if result is None else result  # None: the object has changed itself
            if not dataclasses.is_dataclass(part) and not isinstance(part, PackedSequence):
                return part
        return _with_mapped_parts(mapped, part)

    return mapped(value)


def _holds_plain_values(values: list[Any]) -> bool:
    """Whether a list holds nothing but numbers and strings, or tuples of them, such as sample ids."""
    kinds = set(map(type, values))
    return kinds <= _PLAIN or (kinds == {tuple} and _PLAIN.issuperset(type(part) for one in values for part in one))


def _with_mapped_parts(mapped: Callable[[Any], Any], whole: Any) -> Any:
    """A copy of `whole` with `mapped` applied to what it holds. A value that holds nothing is returned unchanged."""
    kind: Any = type(whole)
    new = whole
    if kind is PackedSequence:
        return whole._replace(data=mapped(whole.data))
    if kind in pytree.SUPPORTED_NODES:
        return pytree.tree_map(mapped, whole, is_leaf=lambda part: part is not whole)
    if isinstance(whole, MutableMapping):
        new = copy.copy(whole)
        for key, value in whole.items():
            new[key] = mapped(value)
    elif isinstance(whole, Mapping):
        new = kind({key: mapped(value) for key, value in whole.items()})
    elif isinstance(whole, Sequence) and not isinstance(whole, str):
        old = list(whole)
        parts = list(map(mapped, old))
        if all(map(is_, old, parts)):
            return whole
        if isinstance(whole, MutableSequence):
            new = copy.copy(whole)
            new[:] = parts
        else:
            new = kind(*parts) if hasattr(whole, "_fields") else kind(parts)
    if dataclasses.is_dataclass(whole):
        new = copy.copy(whole) if new is whole else new
        for field in dataclasses.fields(whole):
            if hasattr(whole, field.name):
                value = mapped(getattr(whole, field.name))
                object.__setattr__(new, field.name, value)  # a dataclass may be frozen
    return new
