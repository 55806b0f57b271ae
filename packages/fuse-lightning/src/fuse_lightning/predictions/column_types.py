"""The type of a column of predictions, found batch by batch.

Batches may differ: a label that some samples lack is a tensor in one batch and a list with None in the next. So a
column has the smallest type that holds the values of all its batches.
"""

from typing import Any, TypeAlias

import numpy as np

Kind: TypeAlias = str | tuple[Any]
"""The name of a NumPy dtype, or one of the names below. The kind of lists is a tuple with their elements' kind."""

NOTHING = "nothing"
"""The kind of None, and of the elements of empty lists."""

TEXT = "text"
"""Text, and values that have no other kind in common, written as text."""

LONG = "long"
"""64-bit integers that float64 cannot hold exactly."""

EXACT_IN_FLOAT64 = 2**53


def kind_of(values: Any) -> Kind:
    """The kind of a column's values in one batch.

    Args:
        values: a one-dimensional array, or a list with a value for each sample.

    Example:
        >>> kind_of([1, None]), kind_of([1, 0.5]), kind_of([[1.5], []]), kind_of([1, "a"])
        ('int64', 'float64', ('float64',), 'text')
    """
    if isinstance(values, np.ndarray):
        return _kind_of_elements(values)
    kind: Kind = NOTHING
    for value in values:
        kind = common_kind(kind, _kind_of_one(value))
    return kind


def common_kind(first: Kind, second: Kind) -> Kind:
    """The smallest kind that holds the values of both: NumPy's rule for numbers; otherwise text.

    Example:
        >>> common_kind("int64", "float32"), common_kind("nothing", "bool"), common_kind("float32", "text")
        ('float64', 'bool', 'text')
    """
    if first == second or second == NOTHING:
        return first
    if first == NOTHING:
        return second
    if isinstance(first, tuple) and isinstance(second, tuple):
        return (common_kind(first[0], second[0]),)
    if isinstance(first, tuple) or isinstance(second, tuple) or TEXT in (first, second):
        return TEXT
    if LONG in (first, second):
        return TEXT if is_float(first) or is_float(second) else LONG
    return str(np.promote_types(first, second))


def is_float(kind: Kind) -> bool:
    """Whether the kind is a floating-point dtype."""
    return isinstance(kind, str) and kind.startswith("float")


def _kind_of_one(value: Any) -> Kind:
    if value is None:
        return NOTHING
    if isinstance(value, np.ndarray):
        kind = _kind_of_elements(value)
        for _ in range(value.ndim):
            kind = (kind,)
        return kind
    if isinstance(value, np.generic):
        return _kind_of_elements(np.asarray(value))
    if isinstance(value, list):
        return (kind_of(value),)
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return _whole_numbers(value, value)
    return "float64" if isinstance(value, float) else TEXT


def _kind_of_elements(array: np.ndarray[Any, Any]) -> Kind:
    if array.dtype == object:
        return kind_of(array.ravel().tolist())
    if array.dtype.kind not in "biuf" or array.itemsize > 8:
        return TEXT
    if array.dtype.kind in "iu" and array.itemsize == 8:
        return _whole_numbers(int(array.min()), int(array.max())) if array.size else "int64"
    return str(array.dtype)


def _whole_numbers(smallest: int, largest: int) -> Kind:
    if smallest >= -EXACT_IN_FLOAT64 and largest <= EXACT_IN_FLOAT64:
        return "int64"
    return LONG if smallest >= -(2**63) and largest < 2**63 else TEXT
