"""NDicts as nodes of torch's pytrees, so that torch.func, torch.export and others see the tensors inside."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def register(node: type, rebuild: Callable[[Iterable[tuple[str, Any]]], Any]) -> None:
    """Make a type of mapping a node of pytrees. `rebuild` makes the result from pairs of dotted key and value."""

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


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """`value` with `fn` applied to each of its tensors: itself, or those in lists, tuples and other pytrees."""
    if isinstance(value, Tensor):
        return fn(value)
    if type(value) is list and all(type(entry) in (str, int, float, bool) for entry in value):
        return value.copy()  # such as sample ids: a pytree's round trip takes a hundred times as long
    return pytree.tree_map_only(Tensor, fn, value)
