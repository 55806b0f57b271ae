"""Text for people: the tree of an NDict's keys, and aligned tables."""

from collections.abc import Mapping, Sequence
from typing import Any


def tree(flat: Mapping[str, Any], print_values: bool = False) -> str:
    """One line per segment of the keys, indented by depth; see `NDict.print_tree`."""
    leaves_below: dict[str, Any] = {}
    for key in flat:
        level = leaves_below
        for segment in key.split("."):
            level = level.setdefault(segment, {})

    lines: list[str] = []

    def add(level: dict[str, Any], prefix: str, depth: int) -> None:
        for segment, below in level.items():
            key = prefix + segment
            value = f" -> {flat[key]}" if print_values and dict.__contains__(flat, key) else ""
            lines.append(f"{'---' * depth} {segment}{value}")
            add(below, f"{key}.", depth + 1)

    add(leaves_below, "", 1)
    return "\n".join(lines)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A header and rows of text, aligned in columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )


def describe(flat: Mapping[str, Any]) -> str:
    """A table of keys with type, dtype, shape and device; see `NDict.describe`."""
    return table(("key", "type", "dtype", "shape", "device"), [_description(key, flat[key]) for key in flat])


def _description(key: str, value: Any) -> tuple[str, ...]:
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    shape = getattr(value, "shape", (len(value),) if isinstance(value, list | tuple) else None)
    shape_text = "" if shape is None else str(tuple(shape))
    return key, type(value).__name__, dtype, shape_text, str(getattr(value, "device", ""))
