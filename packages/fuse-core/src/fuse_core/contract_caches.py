"""Removes the fake tensors of a check from caches that outlive it, such as that of a function with `lru_cache`."""

import functools
import gc
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_LRU_CACHE: Any = type(functools.lru_cache(len))
_NESTING = 3  # a cache may hold tuples or dicts of tensors


class ContractMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode of a check, which tells its fake tensors from those of others."""


def forget_fake_tensors() -> None:
    """Clear each `lru_cache` with a fake tensor of a check, and delete such tensors from dicts without names as keys.

    Functions are not copied. One that keeps a tensor, such as a window or a grid, would compute with the fake one in
    training as well. Everything computed from it would be fake, and no step would change a parameter.
    """
    if not _fake_tensors():
        return
    gc.collect()  # errors and graphs in circles
    held: list[Any] = _fake_tensors()
    for _ in range(_NESTING):
        holders = [one for one in gc.get_referrers(*held) if one is not held] if held else []
        for holder in holders:
            if type(holder) is _LRU_CACHE:
                holder.cache_clear()
            elif type(holder) is dict:
                for key in [key for key, one in holder.items() if any(one is other for other in held)]:
                    if not isinstance(key, str):  # not an attribute, nor a value that was there before
                        del holder[key]
        held = [one for one in holders if type(one) in (tuple, list, dict)]


def _fake_tensors() -> list[Any]:
    everything = gc.get_objects()
    if FakeTensor not in set(map(type, everything)):  # much faster than a loop in Python
        return []
    return [one for one in everything if type(one) is FakeTensor and isinstance(one.fake_mode, ContractMode)]
