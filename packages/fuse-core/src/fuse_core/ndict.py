"""NDict: a dictionary with nested keys whose own storage is flat."""

import copy
import copyreg
from collections.abc import Callable, Iterable, Mapping
from types import MemberDescriptorType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from . import ndict_selection
from .flat_keys import branches_above, has_branch, keys_below, plain
from .key_names import check_key, flatten, is_mapping
from .ndict_pytree import map_tensors, register
from .ndict_view import MISSING, NDictView
from .nested_key_error import NestedKeyError
from .tree_and_table import describe, print_tree, tree

_MANY = 256  # keys: from then on an NDict remembers whether any key holds a leaf and a branch


class NDict(dict[str, Any]):
    """A dictionary of nested keys: `nd["a.b.c"]`, `nd["a"]["b"]["c"]` and `nd["a.b"]["c"]` are the same entry.

    The dictionary stores the leaves under their dotted keys, so reading a leaf is a plain dict read. `keys`, `values`,
    `items`, `len` and iteration see leaves only. A key with leaves below it is a branch: reading it returns a live view
    (`NDictView`), `in` is true for it, `del` and `pop` remove the whole branch.

    - Assigning a mapping replaces the leaf and the branch that the key held. `update`, `merge` and `|` add leaf by
      leaf. A branch without leaves does not exist, so assigning an empty mapping removes the branch.
    - A key may hold a leaf and a branch at once. Reading it returns the leaf, `get_sub_dict` the branch. `del` and
      `pop` remove both. `unflatten` raises, because a nested dict can hold only one of them.
    - Only mappings nest. Lists and tuples are leaves, even if they hold mappings.
    - `match` finds leaves and branches. Beside `**rest` it takes leaves only, because Python removes the keys of the
      pattern from a plain dict of the leaves. Match `unflatten()` there.

    Args:
        mapping: a mapping with nested keys, dotted keys or both, or an iterable of `(key, value)` pairs.
        leaves: more entries, as keyword arguments.

    Raises:
        TypeError: a key is not a string, or an entry has the name of an option of FuseMedML's NDict.
        ValueError: a key is empty or has an empty segment, such as `"a..b"`, or `mapping` holds one key twice: with
            dots and nested.

    Example:
        >>> batch = NDict({"data": {"image": 1}, "data.label": 2})
        >>> batch["model"] = {"logits": {"cls": 3}}
        >>> batch["model.logits.cls"], batch["data"]["label"], "model.logits" in batch
        (3, 2, True)
        >>> batch
        NDict({'data.image': 1, 'data.label': 2, 'model.logits.cls': 3})
    """

    __slots__ = ("_leaves_have_branches",)

    # Whether any of many keys holds a leaf and a branch; None if not known, "asked" after the first question. Set by
    # object's `__setattr__`: a subclass's may set items.
    _leaves_have_branches: bool | str | None
    _slot_names: ClassVar[tuple[str, ...]] = ()  # of a subclass

    def __init__(self, mapping: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None, /, **leaves: Any) -> None:
        super().__init__()
        if mapping is not None:
            self.update(mapping)
        if leaves:
            if leaves.keys() & {"already_flat", "dict_like"}:
                raise TypeError(
                    f"NDict takes entries as keyword arguments, got {', '.join(leaves)}, which FuseMedML's NDict had "
                    "as options. Write NDict(mapping): the mapping may be nested or flat."
                )
            self.update(leaves)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        members = [(name, member) for base in cls.__mro__ if base is not NDict for name, member in vars(base).items()]
        cls._slot_names = tuple(name for name, member in members if isinstance(member, MemberDescriptorType))
        register(cls)  # torch's pytrees do not look at base classes

    def __missing__(self, key: str) -> NDictView:
        if has_branch(self, key):
            return NDictView(self, key)
        raise NestedKeyError(key, self)

    def __setitem__(self, key: str, value: Any) -> None:
        if hasattr(value, "keys") and is_mapping(value):  # a call less for most values, which are tensors
            key = check_key(key)
            branch = flatten(value, f"{key}.")  # before the delete: it may raise, or be a view of self
            if key in self:
                del self[key]
            object.__setattr__(self, "_leaves_have_branches", None)
            dict.update(self, branch)
        else:
            if not dict.__contains__(self, key):
                key = check_key(key)
                if len(self) >= _MANY - 1:
                    object.__setattr__(self, "_leaves_have_branches", None)
            dict.__setitem__(self, key, value)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or has_branch(self, key)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise NestedKeyError(key, self)
        is_leaf = dict.__contains__(self, key)
        below = [] if is_leaf and not self._may_have_branch(key) else keys_below(self, plain(key) + ".")
        for flat_key in (*below, key) if is_leaf else below:
            dict.__delitem__(self, flat_key)

    def _may_have_branch(self, leaf: str) -> bool:
        """Whether there may be keys below a leaf. Deleting many keys one by one takes linear time thanks to this."""
        if len(self) < _MANY:
            return has_branch(self, leaf)
        try:
            known = object.__getattribute__(self, "_leaves_have_branches")
        except AttributeError:  # never set
            known = None
        if known is None:  # the first deletion after a write: looking at all keys would cost more than one search
            object.__setattr__(self, "_leaves_have_branches", "asked")
            return has_branch(self, leaf)
        if known == "asked":
            parents = {key.rpartition(".")[0] for key in self}
            known = not parents.union(*map(branches_above, parents)).isdisjoint(self)
            object.__setattr__(self, "_leaves_have_branches", known)
        return bool(known)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping) and not isinstance(other, NDict):
            try:
                other = flatten(other)
            except (TypeError, ValueError):  # keys that no NDict can hold
                return False
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> Self:  # type: ignore[override]
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.copy().__ior__(other)

    def __ror__(self, other: Any) -> Self:  # type: ignore[override]
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._with_items(flatten(other)).__ior__(self)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"

    def get(self, key: str, default: Any = None, *, default_value: Any = None) -> Any:
        """The leaf, or else a view of the branch, or else `default`; FuseMedML calls it `default_value`."""
        default = default_value if default is None else default
        if dict.__contains__(self, key):
            return self[key]
        return NDictView(self, key) if has_branch(self, key) else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Assign `default` if `key` is not there, then return the value of `key`. A mapping is returned as a view."""
        if key not in self:
            self[key] = default
            if isinstance(default, Mapping):
                return NDictView(self, key)
        return self[key]

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove `key`, leaf and branch, and return the leaf, or else the branch as an NDict, or else `default`."""
        if key not in self:
            if default is MISSING:
                raise NestedKeyError(key, self)
            return default
        value = self[key] if dict.__contains__(self, key) else self.get_sub_dict(key)
        del self[key]
        return value

    def update(self, other: Any = (), /, **leaves: Any) -> None:
        """Add the leaves of a mapping or of `(key, value)` pairs. Only leaves with the same keys are overwritten."""
        object.__setattr__(self, "_leaves_have_branches", None)
        if isinstance(other, NDict):
            dict.update(self, other)
        elif isinstance(other, Mapping):
            dict.update(self, flatten(other))
        else:
            pairs = ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other  # noqa: SIM118
            dict.update(self, {k: v for key, value in pairs for k, v in flatten({key: value}).items()})
        if leaves:
            self.update(leaves)

    merge = update

    def copy(self) -> Self:
        """A new NDict with the same values."""
        return self._with_items(self)

    __copy__ = copy

    def _with_items(self, items: Any) -> Self:
        """An NDict with the type and attributes of `self`, for valid dotted keys and values that are not mappings."""
        new = dict.__new__(type(self))  # not `__new__`: a subclass's may need arguments
        dict.update(new, items)
        if type(self) is not NDict:
            new._set_attributes(self._attributes())
        return new

    def _attributes(self) -> dict[str, Any]:
        """The attributes of an instance of a subclass. torch.compile cannot trace `__getstate__`."""
        slots = {name: getattr(self, name) for name in self._slot_names if hasattr(self, name)}
        return slots | getattr(self, "__dict__", {})

    def _set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _with_results(self, items: Iterable[tuple[str, Any]]) -> Self:
        """As `_with_items`, for values returned by a function, which may be mappings."""
        new = self._with_items(items)
        for key, value in list(new.items()):
            if hasattr(value, "keys") and is_mapping(value):
                new[key] = value
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__setstate__ is not NDict.__setstate__:
            return super().__reduce_ex__(protocol)
        # torch.load(weights_only=True) refuses to set items of a subclass of dict, but calls `__setstate__`.
        state = dict(self), None if type(self) is NDict else self.__getstate__()
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        items, attributes = state
        dict.update(self, items)
        for some in attributes if isinstance(attributes, tuple) else (attributes,):  # a tuple if there are slots
            self._set_attributes(some or {})

    def clone(self, deepcopy: bool = True) -> Self:
        """A copy; with `deepcopy` the values are copied too."""
        return copy.deepcopy(self) if deepcopy else self.copy()

    def to_dict(self) -> dict[str, Any]:
        """A plain dict with dotted keys. `unflatten` gives the nested form."""
        return dict(self)

    flatten = to_dict

    unflatten = ndict_selection.unflatten
    keypaths = ndict_selection.keypaths
    top_level_keys = ndict_selection.top_level_keys
    get_sub_dict = ndict_selection.get_sub_dict
    get_multi = ndict_selection.get_multi
    get_closest_keys = ndict_selection.get_closest_keys
    select = ndict_selection.select
    exclude = ndict_selection.exclude
    indices = ndict_selection.indices
    get_tree = tree
    print_tree = print_tree
    describe = describe

    def apply_on_all(self, apply_func: Callable[..., Any], *args: Any) -> None:
        """Replace each leaf by `apply_func(leaf, *args)`, in place."""
        for key, value in list(self.items()):
            self[key] = apply_func(value, *args)

    def map_tensors(self, fn: Callable[[Tensor], Any]) -> Self:
        """A new NDict with `fn` applied to every tensor, also to tensors in lists, tuples, dataclasses and pytrees."""
        return self._mapped(fn)

    def _mapped(self, fn: Callable[[Tensor], Any], method: str | None = None, *arguments: Any) -> Self:
        results: dict[str, Any] = {}
        for key, value in self.items():
            results[key] = fn(value) if isinstance(value, Tensor) else map_tensors(fn, value, method, *arguments)
        return self._with_results(results.items())

    def to(
        self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool | None = None,
    ) -> Self:
        """A new NDict with its tensors on `device` and its floating-point tensors in `dtype`. Other values are kept.

        This includes tensors in lists, tuples, dataclasses and pytrees, and objects with a method `to`, such as
        `PackedSequence`: they are moved by `value.to(device)`. Tensors in pinned memory are copied to a CUDA device
        without blocking, unless `non_blocking` is False.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if non_blocking is None:  # copies from a device must block: the CPU could read before they are complete
            non_blocking = device is not None and torch.device(device).type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            new_dtype = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=new_dtype, non_blocking=non_blocking)

        return self._mapped(move, *(() if device is None else ("to", device)))

    def cpu(self) -> Self:
        """A new NDict with its tensors on the CPU."""
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int | None = None, non_blocking: bool = False) -> Self:
        """A new NDict with its tensors on a CUDA device, the current one by default."""
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def detach(self) -> Self:
        """A new NDict with its tensors detached from the graph."""
        return self._mapped(Tensor.detach, "detach")

    def pin_memory(self) -> Self:
        """A new NDict with its tensors in pinned memory, for asynchronous copies to a GPU."""
        return self._mapped(Tensor.pin_memory, "pin_memory")


NDictView._make_ndict = NDict
register(NDict)
register(NDictView, NDict)
torch.serialization.add_safe_globals([NDict])  # for torch.load(weights_only=True)
