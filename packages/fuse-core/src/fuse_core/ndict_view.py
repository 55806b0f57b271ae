"""NDictView: a branch of an NDict, read and written in place."""

import copy
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, ClassVar

from .flat_keys import keys_below, plain
from .nested_key_error import NestedKeyError

MISSING: Any = object()
"""The default of `pop`: no default was given."""


class NDictView(MutableMapping[str, Any]):
    """The branch of an NDict below one key. It stores nothing: reads and writes go to the NDict.

    Keys are relative to the branch. Reading, writing and deleting work as on an NDict. For everything else, make an
    NDict of the branch: `copy`, `clone`, `|`, pickling and `copy.copy` return an NDict, not a view. So does
    `NDictView(items)`, for code that rebuilds a mapping as `type(mapping)(items)`. `json.dumps` needs `to_dict()`: it
    knows no mappings but dicts, and a view is none, because a dict's own storage would be empty.

    Example:
        >>> from fuse_core import NDict
        >>> batch = NDict({"data": {"image": 1, "label": 2}})
        >>> data = batch["data"]
        >>> data["label"] = 5
        >>> batch["data.label"], list(data)
        (5, ['image', 'label'])
    """

    __slots__ = ("_prefix", "_root")

    _root: Any  # an NDict, which this module does not import: ndict.py imports this one
    _prefix: str
    _make_ndict: ClassVar[Callable[..., Any]]  # set by ndict.py

    def __new__(cls, root: Any, key: str | None = None) -> Any:
        """A view of the branch `key` of the NDict `root`; without a key, an NDict of the items `root`."""
        return cls._make_ndict(root) if key is None else super().__new__(cls)

    def __init__(self, root: Any, key: str) -> None:
        self._root = root
        self._prefix = plain(key) + "."

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str):
            raise NestedKeyError(key, self)
        return self._root[self._prefix + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._root[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self._root[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        return (key[len(prefix) :] for key in self._root if key.startswith(prefix))

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def __len__(self) -> int:
        return len(keys_below(self._root, self._prefix))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._prefix + key in self._root

    def __eq__(self, other: object) -> bool:
        return bool(self.copy() == other)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> "NDictView":
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._prefix[:-1]!r}, {self.to_dict()!r})"

    def __reduce__(self) -> Any:
        if type(self._root) is self._make_ndict:
            return self._make_ndict, (self.to_dict(),)
        return copy.copy, (self.copy(),)  # a subclass, with its attributes

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As `NDict.setdefault`."""
        return self._root.setdefault(self._prefix + key, default)

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """As `NDict.pop`."""
        return self._root.pop(self._prefix + key, default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the last leaf of the branch and return its key and value.

        Raises:
            KeyError: the branch is empty.
        """
        for key in reversed(self._root):
            if key.startswith(self._prefix):
                return key[len(self._prefix) :], dict.pop(self._root, key)
        raise KeyError(f"popitem: the branch {self._prefix[:-1]!r} is empty")

    def clear(self) -> None:
        """Remove all leaves of the branch."""
        for key in keys_below(self._root, self._prefix):
            dict.__delitem__(self._root, key)

    def update(self, other: Any = (), /, **leaves: Any) -> None:
        """As `NDict.update`: adds leaf by leaf."""
        new = type(self)._make_ndict(other, **leaves)
        self._root.update({self._prefix + key: value for key, value in new.items()})

    merge = update

    def copy(self) -> Any:
        """An NDict of the branch, with the same values."""
        return self._root.get_sub_dict(self._prefix[:-1]) or self._root._with_items(())

    def clone(self, deepcopy: bool = True) -> Any:
        """An NDict of the branch; with `deepcopy` the values are copied too."""
        return copy.deepcopy(self.copy()) if deepcopy else self.copy()

    def to_dict(self) -> dict[str, Any]:
        """The branch as a plain dict with dotted keys."""
        return dict(self.copy())

    flatten = to_dict

    def unflatten(self) -> Any:
        """As `NDict.unflatten`."""
        return self.copy().unflatten()
