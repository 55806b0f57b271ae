"""Checks of option values; each returns the value as the formulas take it."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, cast

from torch import Tensor

from .._fused.device_rules import values_may_be_read


def plain_number(value: Any) -> Any:
    """A NumPy number, or a tensor of one number on the CPU, as a Python number; anything else as it is."""
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, Tensor):  # a parameter stays one, so that it is an error: options get no gradient
        one = value.ndim == 0 and not value.requires_grad and values_may_be_read(value, validate=False)
    else:
        one = getattr(value, "ndim", None) == 0
    return value.item() if one else value


def check_choice(owner: str, option: str, value: Any, choices: Sequence[str], *others: str) -> Any:
    """Raise a ValueError unless `value` is one of `choices`; the message lists `others` beside them."""
    if value not in choices:
        listed = ", ".join([*map(repr, choices), *others])
        raise ValueError(f"{owner}({option}=) is one of {listed}, got {value!r}.")
    return value


def check_bool(owner: str, option: str, value: Any) -> bool:
    """Raise a TypeError unless `value` is True or False, of Python's or NumPy's types."""
    value = plain_number(value)
    if not isinstance(value, bool):
        raise TypeError(f"{owner}({option}=) takes True or False, got {value!r}.")
    return value


def check_int(owner: str, option: str, value: Any, *, at_least: int | None = None, others: str = "") -> int:
    """Raise unless `value` is an int, of Python's or NumPy's types, of at least `at_least`."""
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}({option}=) takes an int{others}, got {value!r}.")
    if at_least is not None and value < at_least:
        raise ValueError(f"{owner}({option}=) is at least {at_least}, got {value!r}.")
    return value


def check_number(
    owner: str, option: str, value: Any, *, at_least: float = 0.0, at_most: float = math.inf, hint: str = ""
) -> float:
    """Raise unless `value` is a finite number, of Python's or NumPy's types, from `at_least` to `at_most`."""
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}({option}=) takes a number, got {value!r}.{hint}")
    if not (at_least <= value <= at_most and -math.inf < value < math.inf):  # the compiler cannot trace math.isfinite
        lower = "" if at_least == -math.inf else f" of at least {at_least:g}"
        upper = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"{owner}({option}=) is a finite number{lower}{upper}, got {value!r}.")
    return value


def check_numbers(
    owner: str, option: str, values: Any, validate: bool, *, at_most: float = math.inf, others: str = "None"
) -> Tensor | tuple[float, ...]:
    """Raise unless `values` are finite numbers from 0 to `at_most`, one for each class or prediction.

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
    one, several = ("prediction", "predictions") if option == "deep_supervision_weights" else ("class", "classes")
    if isinstance(values, (str, bytes, Mapping, Set)) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes a number for each {one}, {others}, got {values!r}.")
    if getattr(values, "ndim", 1) != 1:
        shape = tuple(cast(Any, values).shape)
        raise ValueError(f"{owner}({option}=) has one axis, over the {several}, got shape {shape}.")
    if not isinstance(values, Tensor):
        return tuple(check_number(owner, option, value, at_most=at_most) for value in values)
    if values.requires_grad:
        raise TypeError(f"{owner} gives no gradient to {option}, but they require one. Call .detach() on them.")
    if values_may_be_read(values, validate):
        check_numbers(owner, option, values.tolist(), validate, at_most=at_most)
    return values


def check_class_indices(owner: str, option: str, values: Any) -> tuple[int, ...]:
    """Raise unless `values` are ints of at least 0."""
    if isinstance(values, (str, Mapping)) or getattr(values, "ndim", 1) == 0 or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes several ints, got {values!r}.")
    indices = [plain_number(one) for one in values]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in indices):
        raise ValueError(f"{owner}({option}=) takes class indices from 0, got {indices}.")
    return tuple(indices)


def check_regions(owner: str, option: str, values: Any) -> tuple[tuple[int, ...], ...]:
    """Raise unless `values` are lists of class indices, none of them empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}({option}=) takes a list of class indices for each channel, got {values!r}.")
    regions = tuple(check_class_indices(owner, option, one) for one in values)
    if not regions or not all(regions):
        raise ValueError(f"{owner}({option}=) takes at least one class index for each channel, got {values!r}.")
    return regions
