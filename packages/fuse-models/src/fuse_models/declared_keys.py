"""The keys that a component declares."""

from typing import Any


def declared_keys(component: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The keys that a component reads and writes; None if it declares neither."""
    reads, writes = getattr(component, "reads", None), getattr(component, "writes", None)
    return None if reads is None and writes is None else (tuple(reads or ()), tuple(writes or ()))
