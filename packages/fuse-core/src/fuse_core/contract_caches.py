"""Removes the fake tensors of a check from caches that outlive it, such as that of a function with `lru_cache`."""

import functools
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_LRU_CACHE: Any = type(functools.lru_cache(len))


class ContractMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode of a check, which knows the fake tensors that were made in it."""

    made: ClassVar[list[weakref.ref[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note the tensors that it makes."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, FakeTensor):
                self.made.append(weakref.ref(one))
        return result


@contextmanager
def fake_tensors_forgotten() -> Iterator[None]:
    """Run a check, then delete its copies and clear the caches that keep its fake tensors.

    Copies may refer to themselves, as those of metrics do. While nothing is collected, they stay young: at the end they
    are found without a look at the program's older objects.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if was_enabled:
            gc.enable()
        _clear_caches()


def _clear_caches() -> None:
    """Clear each `lru_cache` with a fake tensor of a check, and delete such tensors from dicts without names as keys.

    Functions are not copied. One that keeps a tensor, such as a window or a grid, would compute with the fake one in
    training as well. Everything computed from it would be fake, and no step would change a parameter.
    """
    is_kept = any(made() is not None for made in ContractMode.made)
    ContractMode.made.clear()
    if not is_kept:
        return
    for one in gc.get_objects():
        if type(one) is _LRU_CACHE:
            if _holds_fake(one):
                one.cache_clear()
        elif type(one) is dict and one and not isinstance(next(iter(one)), str):  # names are those of attributes
            for key, value in list(one.items()):
                if _is_fake(value) or _holds_fake(value):
                    del one[key]


def _is_fake(value: Any) -> bool:
    return type(value) is FakeTensor and isinstance(value.fake_mode, ContractMode)


def _holds_fake(container: Any, nesting: int = 3) -> bool:
    """Whether a cache holds a fake tensor of a check, also one in tuples, lists or dicts of it."""
    if type(container) not in (_LRU_CACHE, tuple, list, dict) or not nesting:
        return False
    return any(_is_fake(one) or _holds_fake(one, nesting - 1) for one in gc.get_referents(container))
