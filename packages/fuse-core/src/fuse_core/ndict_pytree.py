"""NDicts as nodes of torch's pytrees, so that torch.func, torch.export and others see the tensors inside."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

_NODES: set[type] = set()


def register(node: type, rebuild: Callable[[Iterable[tuple[str, Any]]], Any]) -> None:
    """Make a type of mapping a node of pytrees. `rebuild` makes the result from pairs of dotted key and value."""
    _NODES.add(node)

    def unflatten(values: Iterable[Any], keys: Sequence[str]) -> Any:
        return rebuild(zip(keys, values, strict=True))

    pytree.register_pytree_node(
        node,
        _flatten,
        unflatten,
        serialized_type_name=f"{node.__module__}.{node.__qualname__}",
        flatten_with_keys_fn=_flatten_with_keys,
    )


def _flatten(mapping: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    return list(mapping.values()), list(mapping)


def _flatten_with_keys(mapping: Mapping[str, Any]) -> tuple[list[tuple[pytree.KeyEntry, Any]], list[str]]:
    return [(pytree.MappingKey(key), value) for key, value in mapping.items()], list(mapping)


def map_tensors(fn: Callable[[Tensor], Any], value: Any, method: str | None = None, *arguments: Any) -> Any:
    """`value` with `fn` applied to its tensors: itself, or those in lists, tuples, dataclasses and other pytrees.

    An object with the method `method` is replaced by `object.method(*arguments)`.
    """
    if isinstance(value, Tensor):
        return fn(value)
    if type(value) is list and all(type(entry) in (str, int, float, bool) for entry in value):
        return value.copy()  # such as sample ids: a pytree's round trip takes a hundred times as long

    def has_method(part: Any) -> bool:
        if method is None or isinstance(part, type) or type(part) in _NODES:
            return False  # `fn` handles the tensors in an NDict
        return callable(getattr(part, method, None))

    def mapped(part: Any) -> Any:
        if isinstance(part, Tensor):
            return fn(part)
        if method is not None and has_method(part):
            result = getattr(part, method)(*arguments)
            part = part if result is None else result  # None: the object has changed itself
        if isinstance(part, PackedSequence):
            return part._replace(data=fn(part.data))
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            old, part = part, copy.copy(part)
            for field in dataclasses.fields(old):
                if hasattr(old, field.name):
                    new = map_tensors(fn, getattr(old, field.name), method, *arguments)
                    object.__setattr__(part, field.name, new)  # a dataclass may be frozen
        return part

    return pytree.tree_map(mapped, value, is_leaf=lambda part: isinstance(part, PackedSequence) or has_method(part))
