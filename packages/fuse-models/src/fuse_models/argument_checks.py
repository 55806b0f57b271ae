"""Checks of constructor arguments that several classes share. `where` names the argument: `"Head1D(mode=)"`."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from torch import nn

from fuse_core import did_you_mean


def check_positive(value: Any, where: str) -> int:
    """`value`, which may be of a type of NumPy, as `int`. Raises `ValueError` unless it is an integer above 0."""
    if not is_positive(value):
        raise ValueError(f"{where} takes a positive integer, got {value!r}.")
    return int(value)


def check_all_positive(values: object, where: str, *, count: int | None = None) -> tuple[int, ...]:
    """`values` as a tuple. Raises `ValueError` unless they are integers above 0, and `count` of them if it is given."""
    listed = list(values) if isinstance(values, Iterable) else None
    if listed is None or not all(map(is_positive, listed)) or count not in (None, len(listed)):
        number = "a sequence of" if count is None else count
        raise ValueError(f"{where} takes {number} positive integers, got {values!r}.")
    return tuple(map(int, listed))


def sizes_of_axes(value: int | Sequence[int], ndim: int, where: str) -> tuple[int, ...]:
    """A size for each axis, from one for all axes or one for each. Raises `ValueError` unless all are above 0."""
    sizes = tuple(value) if isinstance(value, Iterable) else (value,) * ndim
    return check_all_positive(sizes, where, count=ndim)


def check_rate(value: Any, where: str) -> float:
    """`value` as `float`. Raises `ValueError` unless it is a dropout rate."""
    if not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ValueError(f"{where} takes a number from 0 up to, not including, 1, got {value!r}.")
    return float(value)


def check_name(value: object, where: str) -> str:
    """`value` as a plain string. Raises `ValueError` unless it is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} takes a non-empty string, got {value!r}.")
    return plain_key(value)


def plain_key(key: str) -> str:
    """The plain string of a member of a str Enum, which an f-string would print as `Keys.IMAGE`."""
    return "" + key


def check_option(value: object, options: Iterable[str | None], where: str) -> None:
    """Raises `ValueError` unless `value` is one of the options, and suggests the nearest."""
    allowed = tuple(options)
    if value not in allowed:
        nearest = did_you_mean(str(value), [option for option in allowed if option is not None])
        raise ValueError(f"{where} takes one of {', '.join(map(repr, allowed))}, got {value!r}.{nearest}")


def check_module_or_none(value: object, where: str) -> None:
    """Raises `TypeError` unless `value` is a module or None."""
    if value is not None and not isinstance(value, nn.Module):
        raise TypeError(f"{where} takes a module or None, got {value!r}.")


def is_positive(value: object) -> bool:
    """Whether `value` is an integer above 0."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
