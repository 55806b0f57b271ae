"""Replace an attribute of an object temporarily."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced_attribute(owner: object, name: str, value: Any) -> Iterator[None]:
    """Within this context, an object has another value of an attribute, or another method; its class is left alone.

    Example:
        >>> import collections
        >>> counter = collections.Counter(a=1)
        >>> with replaced_attribute(counter, "total", lambda: 5):
        ...     print(counter.total())
        5
        >>> counter.total()
        1
    """
    attributes = vars(owner)
    before = {name: attributes[name]} if name in attributes else {}
    attributes[name] = value
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(before)
