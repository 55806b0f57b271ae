"""Keys that several components together read and write."""

from collections.abc import Iterable, Sequence
from typing import Any


def are_declared(component: Any) -> bool:
    """Whether a component says which keys it uses; one with `reads` alone writes nothing."""
    return getattr(component, "reads", None) is not None or getattr(component, "writes", None) is not None


def keys_in_turn(components: Iterable[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys that components running in this order read, without those written before; and the keys they write.

    Example:
        >>> from types import SimpleNamespace
        >>> backbone = SimpleNamespace(reads=("data.image",), writes=("model.backbone_features",))
        >>> head = SimpleNamespace(reads=("model.backbone_features", "data.age"), writes=("model.output.cls",))
        >>> keys_in_turn([backbone, head])
        (('data.image', 'data.age'), ('model.backbone_features', 'model.output.cls'))
    """
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    for component in components:
        for key in getattr(component, "reads", None) or ():
            if not is_provided(key, tuple(writes)):
                reads[key] = None
        writes.update(dict.fromkeys(getattr(component, "writes", None) or ()))
    return tuple(reads), tuple(writes)


def keys_read_by_any(components: Iterable[Any]) -> tuple[str, ...] | None:
    """The keys that components read which do not see one another's writes; None if one declares no keys."""
    listed = list(components)
    if not all(are_declared(component) for component in listed):
        return None
    return tuple(dict.fromkeys(key for component in listed for key in getattr(component, "reads", None) or ()))


def is_provided(key: str, written: Sequence[str]) -> bool:
    """Whether one of the written keys is this key, lies below it, or is a branch that it lies in."""
    return any(key == other or other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in written)
