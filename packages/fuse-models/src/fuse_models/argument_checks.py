"""Checks of constructor arguments that several classes share."""

from collections.abc import Iterable


def check_positive(value: object, where: str) -> None:
    """Raises `ValueError` unless `value` is an integer above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{where} takes a positive integer, got {value!r}.")


def check_all_positive(values: Iterable[object], where: str, *, count: int | None = None) -> None:
    """Raises `ValueError` unless `values` holds integers above 0, as many as `count` where that is given."""
    listed = list(values)
    if not all(isinstance(value, int) and value > 0 for value in listed) or count not in (None, len(listed)):
        raise ValueError(f"{where} takes {'' if count is None else f'{count} '}positive integers, got {listed!r}.")


def check_rate(value: float, where: str) -> None:
    """Raises `ValueError` unless `value` is a dropout rate."""
    if not 0 <= value < 1:
        raise ValueError(f"{where} takes a number from 0 up to, not including, 1, got {value!r}.")
