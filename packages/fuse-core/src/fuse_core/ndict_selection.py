"""The methods of NDict that return parts of it and other forms of it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .did_you_mean import nearest_keys
from .flat_keys import branches_above, has_branch, keys_at_or_below, keys_below, plain
from .indexing import Index, check_equal_lengths, positions, take
from .key_names import check_key
from .nested_key_error import NestedKeyError

if TYPE_CHECKING:
    from .ndict import NDict

NDictT = TypeVar("NDictT", bound="NDict")


def unflatten(self: "NDict") -> dict[str, Any]:
    """Nested plain dicts.

    Raises:
        ValueError: a key holds a leaf and a branch. A nested dict can hold only one of them.

    Example:
        >>> from fuse_core import NDict
        >>> NDict({"a.b": 1, "a.c.d": 2}).unflatten()
        {'a': {'b': 1, 'c': {'d': 2}}}
    """
    nested: dict[str, Any] = {}
    levels = {"": nested}
    for key, value in self.items():
        for branch in branches_above(key):
            if branch not in levels:
                above, _, segment = branch.rpartition(".")
                levels[branch] = levels[above][segment] = {}
        above, _, segment = key.rpartition(".")
        levels[above][segment] = value
    for key in self:
        if key in levels:
            raise ValueError(f"unflatten: {key!r} holds both a leaf and a branch. Rename or delete one of them.")
    return nested


def keypaths(self: "NDict") -> list[str]:
    """The dotted keys of all leaves."""
    return list(self)


def top_level_keys(self: "NDict") -> list[str]:
    """The first segments of all keys, in order of first appearance."""
    return list(dict.fromkeys(key.partition(".")[0] for key in self))


def get_sub_dict(self: NDictT, key: str) -> NDictT | None:
    """An NDict of the branch below `key`, or None if there is no such branch."""
    if not has_branch(self, key):
        return None
    prefix = plain(key) + "."
    return self._with_items((flat_key[len(prefix) :], self[flat_key]) for flat_key in keys_below(self, prefix))


def get_multi(self: NDictT, keys: Iterable[str] | None = None) -> NDictT:
    """An NDict of the given keys, leaves or branches; of all keys if `keys` is None."""
    return self.copy() if keys is None else self._with_results((check_key(key), self[key]) for key in keys)


def get_closest_keys(self: "NDict", key: str, n: int = 1) -> list[str]:
    """The `n` keys of leaves or branches that are most similar to `key`; `[key]` if `key` is there."""
    return [key] if key in self else nearest_keys(key, self, n=n, cutoff=0.0)


def select(self: NDictT, *keys: str) -> NDictT:
    """An NDict of the leaves at or below any of `keys`.

    Raises:
        NestedKeyError: one of `keys` is neither a leaf nor a branch.
    """
    for key in keys:
        if key not in self:
            raise NestedKeyError(key, self)
    return self._with_items((key, self[key]) for key in keys_at_or_below(self, keys))


def exclude(self: NDictT, *keys: str) -> NDictT:
    """An NDict without the leaves at or below any of `keys`. A key that is not there is no error."""
    left_out = keys_at_or_below(self, keys)
    return self._with_items((key, value) for key, value in self.items() if key not in left_out)


def indices(self: NDictT, index: Index) -> NDictT:  # noqa: D417, it is a method
    """The chosen samples of a batch.

    Args:
        index: a slice, or a boolean mask or integer indices as a list, array or tensor. It indexes lists and the
            first axis of tensors and arrays. Other values are kept as they are.

    Raises:
        ValueError: values hold different numbers of samples. The message names their keys.
        IndexError: the mask has another length, or an index is out of range.
        TypeError: the index holds neither booleans nor integers.
    """
    key_and_length = check_equal_lengths(self)
    if key_and_length is None:
        return self.copy()
    chosen = positions(index, *key_and_length)
    return self._with_items({key: take(value, chosen) for key, value in self.items()})
