"""Makes a batch from samples, and counts the samples of a batch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from operator import attrgetter, itemgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .flat_keys import branches_above, has_branch, keys_at_or_below, plain
from .indexing import has_batch_axis, length, stack
from .key_names import SAMPLE_ID, check_key
from .ndict import NDict


class Collate:
    """Makes a batch from samples, as the `collate_fn` of a `DataLoader`. `collate` is one with the default options.

    Each key of the samples becomes a key of the batch. Tensors, arrays and numbers are stacked along a new first axis,
    as by PyTorch's `default_collate`. All other values become a list with one entry per sample. `data.sample_id` always
    becomes a list, and so does a key that is None in some samples. Lists come after the tensors in the batch.

    Args:
        keep_keys: keep only these keys and branches, and `data.sample_id`; None keeps all.
        skip_keys: drop these keys and branches, even if `keep_keys` names them.
        missing: if samples hold different keys, `"raise"` an error or fill in None with `"none"`.
        per_key: for a key, or for all keys below a branch, the function that turns a key's list of values into the
            batch's value, such as `pad_to_largest()`.
        post: a function that receives the finished batch and returns the batch to use.

    Raises:
        ValueError: samples disagree in keys, types, dtypes or shapes. The message names the key and two samples.

    Example:
        >>> samples = [{"data": {"sample_id": i, "image": torch.zeros(1, 8, 8), "label": i}} for i in range(2)]
        >>> batch = collate(samples)
        >>> batch["data.image"].shape, batch["data.label"], batch["data.sample_id"]
        (torch.Size([2, 1, 8, 8]), tensor([0, 1]), [0, 1])
    """

    def __init__(
        self,
        *,
        keep_keys: Sequence[str] | None = None,
        skip_keys: Sequence[str] = (),
        missing: Literal["raise", "none"] = "raise",
        per_key: Mapping[str, Callable[[list[Any]], Any]] | None = None,
        post: Callable[[NDict], NDict] | None = None,
    ) -> None:
        if missing not in ("raise", "none"):
            raise ValueError(f"Collate(missing=) is 'raise' or 'none', got {missing!r}.")
        for name, keys in (("keep_keys", keep_keys), ("skip_keys", skip_keys)):
            if isinstance(keys, str):
                raise TypeError(
                    f"Collate({name}=) takes a sequence of keys, got the string {keys!r}. Use [{plain(keys)!r}]."
                )
        if keep_keys is not None and not keep_keys:
            raise ValueError("Collate(keep_keys=) got no key. Leave it out to keep all keys.")
        self.keep_keys = None if keep_keys is None else (*map(check_key, keep_keys), SAMPLE_ID)
        self.skip_keys = tuple(map(check_key, skip_keys))
        self.missing = missing
        self.per_key = dict(NDict(per_key))
        for key, function in self.per_key.items():
            if not callable(function):
                raise TypeError(f"Collate(per_key=) takes functions, got {function!r} for {key!r}.")
        self.post = post

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> NDict:
        """The batch of the samples. They may be any mappings, with nested or dotted keys."""
        if not samples:
            raise ValueError("collate needs at least one sample, got none.")
        columns = _columns(samples)
        if columns is None:
            columns = self._columns_of_different_samples(samples)
        keys = self._chosen(columns)
        if self.missing == "raise":
            self._check_options(keys)

        batched: dict[str, Any] = {}
        listed: dict[str, Any] = {}
        for key in keys:
            value = self._collated(samples, key, *columns[key])
            (listed if isinstance(value, list) else batched)[key] = value
        # Lists go last: torch 2.13's compiler guards on the first value of a dict. If that were the list of sample ids,
        # each batch would be compiled again.
        everything = batched | listed
        batch = NDict()._with_results(everything.items()) if self.per_key else NDict()._with_items(everything)
        if self.post is not None:
            batch = self.post(batch)
            if batch is None:
                raise TypeError("Collate(post=) takes a function that returns the batch to use, but it returned None.")
        return batch

    def _columns_of_different_samples(self, samples: Sequence[Mapping[str, Any]]) -> "_Columns":
        for sample in samples:
            if not isinstance(sample, Mapping):
                raise TypeError(
                    f"collate takes samples that are mappings of keys to values, got a {type(sample).__name__}. Wrap a "
                    f"dataset of tuples in DatasetWrapSeqToDict."
                )
        flat = [sample if isinstance(sample, NDict) else NDict(sample) for sample in samples]
        keys = dict.fromkeys(key for sample in flat for key in sample)
        required = self._chosen(keys) if self.missing == "raise" else ()
        for (position, sample), key in product(enumerate(flat), required):
            if not dict.__contains__(sample, key):  # not `in`: a leaf of one sample may be a branch of another
                holder = next(i for i, other in enumerate(flat) if dict.__contains__(other, key))
                raise ValueError(
                    f"All samples of a batch must hold the same keys: {_name(samples, position)} lacks {key!r}, which "
                    f"{_name(samples, holder)} holds. Add it, skip it with Collate(skip_keys=[{key!r}]), or fill in "
                    f"None with Collate(missing='none')."
                )
        columns = {key: [dict.get(sample, key) for sample in flat] for key in keys}
        return {key: (values, set(map(type, values))) for key, values in columns.items()}

    def _collated(self, samples: Sequence[Mapping[str, Any]], key: str, values: list[Any], types: set[type]) -> Any:
        if key == SAMPLE_ID and key not in self.per_key:
            return values
        chosen = None
        if self.per_key:
            chosen = next((name for name in (key, *reversed(branches_above(key))) if name in self.per_key), None)
        try:
            return _batched(values, types) if chosen is None else self.per_key[chosen](values)
        except Exception as error:
            if chosen is None:
                raise _disagreement(samples, key, values, error) from error
            names = ", ".join(_name(samples, position) for position in range(len(samples)))
            raise ValueError(f"Collate's per_key function for {key!r} failed on {names}: {error}") from error

    def _chosen(self, keys: Collection[str]) -> Collection[str]:
        if self.keep_keys is not None:
            keys = keys_at_or_below(keys, self.keep_keys)
        if self.skip_keys:
            skipped = keys_at_or_below(keys, self.skip_keys)
            keys = [key for key in keys if key not in skipped]
        return keys

    def _check_options(self, chosen: Collection[str]) -> None:
        """Raise if an option names a key that no sample holds. It is probably misspelt."""
        kept = [key for key in self.keep_keys or () if key != SAMPLE_ID]
        for option, key in (*product(["keep_keys"], kept), *product(["per_key"], self.per_key)):
            if key not in chosen and not has_branch(chosen, key):
                raise ValueError(
                    f"Collate({option}=) names {key!r}, which the samples do not hold or `skip_keys` drops. They hold "
                    f"{', '.join(map(repr, chosen))}. Correct the key, or pass Collate(missing='none')."
                )


_TENSORS = {Tensor}
_Columns = dict[str, tuple[list[Any], set[type]]]
"""The values of each dotted key, one per sample, and their types."""


def _columns(samples: Sequence[Mapping[str, Any]], prefix: str = "") -> _Columns | None:
    """The columns of the samples; None unless all samples are dicts or NDicts nested in the same way.

    Working key by key instead of making an NDict of each sample takes a third of the time.
    """
    if not {dict, NDict}.issuperset(map(type, samples)) or len(set(map(len, samples))) > 1:
        return None
    columns: _Columns = {}
    for key in samples[0]:
        try:
            values = list(map(itemgetter(key), samples))
        except KeyError:
            return None
        key = prefix + check_key(key)
        types = set(map(type, values))
        if types != _TENSORS and any(issubclass(value_type, Mapping) for value_type in types):
            below = _columns(values, f"{key}.")
            if below is None or not columns.keys().isdisjoint(below):
                return None
            columns.update(below)
        elif key in columns:
            return None
        else:
            columns[key] = values, types
    return columns


_dtype = attrgetter("dtype")
_NUMBER = (bool, int, float, complex, np.number, np.bool_)


def _batched(values: list[Any], types: set[type]) -> Any:
    if types == _TENSORS and get_worker_info() is None:  # most values: no time for default_collate's checks
        first = values[0]
        if first.layout is torch.strided and not first.is_nested and len(set(map(_dtype, values))) == 1:
            return torch.stack(values)
    kinds = {_kind(value_type) for value_type in types}
    if len(kinds) > 1 and type(None) not in types:
        raise TypeError("they differ in type")
    if None in kinds:
        return values
    if kinds == {_NUMBER}:
        numbers = np.array(values)
        if numbers.dtype.kind not in "biuc" and all(isinstance(value, int | np.integer) for value in values):
            raise TypeError("no integer of 64 bits holds them all")
        return torch.from_numpy(numbers)
    if kinds == {np.ndarray} and not any(value.dtype.kind in "biufc" for value in values):
        return values  # tensors cannot hold text, whose dtype is its length, objects or dates
    if len(set(map(_dtype, values))) > 1:
        raise TypeError("they differ in dtype")
    if kinds == {np.ndarray}:
        if types != {np.ndarray} and any(map(np.ma.is_masked, values)):
            raise TypeError("a tensor has no mask. Fill the masked entries in the dataset, such as with `filled(0)`.")
        return torch.from_numpy(np.stack(values))  # one conversion is faster than one per array
    return values if all(value.is_nested for value in values) else stack(values)


def _kind(value_type: type) -> Any:
    """The kind of value, if values of this type can be stacked; None if they become a list."""
    if issubclass(value_type, np.timedelta64):  # a number for NumPy
        return None
    return next((kind for kind in (Tensor, np.ndarray, _NUMBER) if issubclass(value_type, kind)), None)


def _disagreement(samples: Sequence[Mapping[str, Any]], key: str, values: list[Any], error: Exception) -> ValueError:
    """An error that names two samples that disagree in `key`."""
    descriptions = [_describe(value) for value in values]
    other = next((i for i, description in enumerate(descriptions) if description != descriptions[0]), None)
    if other is None:
        found = f"{descriptions[0]} in every sample, such as {_name(samples, 0)}"
        return ValueError(f"collate could not batch {key!r} ({found}): {error}")
    return ValueError(
        f"All samples of a batch must agree in {key!r}: {_name(samples, 0)} holds {descriptions[0]}, "
        f"{_name(samples, other)} holds {descriptions[other]}. Make them equal in the dataset, or give "
        f"Collate(per_key={{{key!r}: ...}}) a function that batches them, such as fuse_core.pad_to_largest()."
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor) and value.is_nested:  # which may have no shape
        return f"a nested Tensor of dtype {value.dtype}"
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return type(value).__name__


def _name(samples: Sequence[Mapping[str, Any]], position: int) -> str:
    sample_id = NDict(samples[position]).get(SAMPLE_ID)
    return f"the sample at position {position}" if sample_id is None else f"sample {sample_id!r}"


collate = Collate()


def number_of_samples(batch: Mapping[str, Any]) -> int | None:
    """The number of samples in a batch with dotted keys; None if no value has a batch axis.

    It is the length of `data.sample_id`, or else of the first value with a batch axis.

    Example:
        >>> number_of_samples({"global_step": 7, "data.label": torch.tensor([0, 1, 1])})
        3
    """
    if SAMPLE_ID in batch:
        return len(batch[SAMPLE_ID])
    return next((length(value) for value in batch.values() if has_batch_axis(value)), None)
