"""Checks of option values; each returns the value as the formulas take it."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from .._fused.blocks import values_may_be_read


def check_choice(owner: str, option: str, value: Any, choices: Sequence[str], *others: str) -> Any:
    """Raise a ValueError unless `value` is one of `choices`; the message lists `others` beside them."""
    if value not in choices:
        listed = ", ".join([*map(repr, choices), *others])
        raise ValueError(f"{owner}({option}=) is one of {listed}, got {value!r}.")
    return value


def check_bool(owner: str, option: str, value: Any) -> bool:
    """Raise a TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}({option}=) takes True or False, got {value!r}.")
    return value


def check_int(owner: str, option: str, value: Any, *, at_least: int | None = None, others: str = "") -> int:
    """Raise unless `value` is an int, of Python's or NumPy's types, of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{owner}({option}=) takes an int{others}, got {value!r}.")
    if at_least is not None and value < at_least:
        raise ValueError(f"{owner}({option}=) is at least {at_least}, got {value!r}.")
    return int(value)


def check_number(
    owner: str, option: str, value: Any, *, at_least: float = 0.0, at_most: float = math.inf, hint: str = ""
) -> float:
    """Raise unless `value` is a finite number, of Python's or NumPy's types, from `at_least` to `at_most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{owner}({option}=) takes a number, got {value!r}.{hint}")
        value = float(value)
    if not (at_least <= value <= at_most and -math.inf < value < math.inf):  # the compiler cannot trace math.isfinite
        lower = "" if at_least == -math.inf else f" of at least {at_least:g}"
        upper = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"{owner}({option}=) is a finite number{lower}{upper}, got {value!r}.")
    return value  # type: ignore[no-any-return]


def check_numbers(
    owner: str, option: str, values: Any, validate: bool, *, at_most: float = math.inf, others: str = "None"
) -> Tensor | tuple[float, ...]:
    """Raise unless `values` are finite numbers from 0 to `at_most`, one for each class.

    Args:
        owner: the loss that the error names.
        option: the option that the error names.
        values: a tensor, a NumPy array or a sequence.
        validate: read tensors on other devices than the CPU too.
        at_most: the largest number allowed.
        others: what else the option takes, for the message.

    Returns:
        A tensor as it is; anything else as a tuple of Python floats.
    """
    if isinstance(values, Tensor):
        if values.ndim != 1:
            raise ValueError(f"{owner}({option}=) has one axis, over the classes, got shape {tuple(values.shape)}.")
        if values_may_be_read(values, validate):
            check_numbers(owner, option, values.tolist(), validate, at_most=at_most)
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes a number for each class, {others}, got {values!r}.")
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{owner}({option}=) has one axis, over the classes, got shape {tuple(values.shape)}.")  # type: ignore[attr-defined]
    return tuple(check_number(owner, option, value, at_most=at_most) for value in values)


def check_class_indices(owner: str, option: str, values: Any) -> tuple[int, ...]:
    """Raise unless `values` are ints of at least 0."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes several ints, got {values!r}.")
    indices = tuple(values)
    if not all(isinstance(one, (int, Integral)) and not isinstance(one, bool) and int(one) >= 0 for one in indices):
        raise ValueError(f"{owner}({option}=) takes class indices from 0, got {list(indices)}.")
    return tuple(int(one) for one in indices)


def check_regions(owner: str, option: str, values: Any) -> tuple[tuple[int, ...], ...]:
    """Raise unless `values` are lists of class indices, none of them empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes a list of class indices for each channel, got {values!r}.")
    regions = tuple(check_class_indices(owner, option, one) for one in values)
    if not regions or not all(regions):
        raise ValueError(f"{owner}({option}=) takes at least one class index for each channel, got {values!r}.")
    return regions


def check_tensor(owner: str, option: str, value: Any) -> Tensor:
    """Raise a TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{owner}({option}=) takes a tensor, got {value!r}. Use torch.tensor(...).")
    return value
