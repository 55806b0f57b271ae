"""Text for people: aligned tables, and the methods of NDict that return text."""

from collections.abc import Mapping, Sequence
from typing import Any


def tree(self: Mapping[str, Any], print_values: bool = False) -> str:
    """The tree of keys as indented text, one line per segment; see `print_tree`."""
    leaves_below: dict[str, Any] = {}
    for key in self:
        level = leaves_below
        for segment in key.split("."):
            level = level.setdefault(segment, {})

    lines: list[str] = []

    def add(level: dict[str, Any], prefix: str, depth: int) -> None:
        for segment, below in level.items():
            key = prefix + segment
            value = f" -> {self[key]}" if print_values and dict.__contains__(self, key) else ""
            lines.append(f"{'---' * depth} {segment}{value}")
            add(below, f"{key}.", depth + 1)

    add(leaves_below, "", 1)
    return "\n".join(lines)


def print_tree(self: Mapping[str, Any], print_values: bool = False) -> None:
    """Print the tree of keys, with `print_values` also the leaves' values.

    Example:
        >>> from fuse_core import NDict
        >>> NDict({"data.image": 1, "data.label": 2}).print_tree(print_values=True)
        --- data
        ------ image -> 1
        ------ label -> 2
    """
    print(tree(self, print_values))  # noqa: T201


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A header and rows of text, aligned in columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )


def describe(self: Mapping[str, Any]) -> str:
    """A table of the leaves with key, type, dtype, shape and device.

    Example:
        >>> import torch
        >>> from fuse_core import NDict
        >>> print(NDict({"data.image": torch.zeros(2, 1, 8, 8), "data.sample_id": ["a", "b"]}).describe())
        key             type    dtype    shape         device
        data.image      Tensor  float32  (2, 1, 8, 8)  cpu
        data.sample_id  list             (2,)
    """
    return table(("key", "type", "dtype", "shape", "device"), [_description(key, self[key]) for key in self])


def _description(key: str, value: Any) -> tuple[str, ...]:
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    is_nested = getattr(value, "is_nested", False) is True  # torch refuses the shape of some
    shape = None if is_nested else getattr(value, "shape", (len(value),) if isinstance(value, list | tuple) else None)
    shape_text = "" if shape is None else str(tuple(shape))
    return key, type(value).__name__, dtype, shape_text, str(getattr(value, "device", ""))
