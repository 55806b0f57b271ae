"""Makes a batch from samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .flat_keys import has_branch, keys_at_or_below
from .key_names import SAMPLE_ID
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
        per_key: for a key, the function that turns its list of values into the batch's value, such as
            `pad_to_largest()`.
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
                raise TypeError(f"Collate({name}=) takes a sequence of keys, got the string {keys!r}. Use [{keys!r}].")
        self.keep_keys = None if keep_keys is None else (*keep_keys, SAMPLE_ID)
        self.skip_keys = tuple(skip_keys)
        self.missing = missing
        self.per_key = dict(per_key or {})
        self.post = post

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> NDict:
        """The batch of the samples. They may be any mappings, with nested or dotted keys."""
        if not samples:
            raise ValueError("collate needs at least one sample, got none.")
        flat = [_as_ndict(sample) for sample in samples]
        keys: Collection[str] = flat[0].keys()
        are_equal = all(sample.keys() == keys for sample in flat)
        keys = self._chosen(keys if are_equal else dict.fromkeys(key for sample in flat for key in sample))
        if self.missing == "raise":
            if not are_equal:
                _check_keys(flat, keys)
            self._check_options(keys)
        # Not `sample.get`: a leaf of one sample may be a branch of another.
        values_by_key = {key: [dict.get(sample, key) for sample in flat] for key in keys}

        batched: dict[str, Any] = {}
        listed: dict[str, Any] = {}
        for key, values in values_by_key.items():
            value = self._collated(flat, key, values)
            (listed if isinstance(value, list) else batched)[key] = value
        # Lists go last: torch 2.13's compiler guards on the first value of a dict. If that were the list of sample ids,
        # each batch would be compiled again.
        batch = NDict(batched | listed)
        return batch if self.post is None else self.post(batch)

    def _collated(self, samples: list[NDict], key: str, values: list[Any]) -> Any:
        default: Callable[[list[Any]], Any] = list if key == SAMPLE_ID else _batched
        collate_values = self.per_key.get(key, default)
        try:
            return collate_values(values)
        except (ValueError, RuntimeError, TypeError) as error:
            if key not in self.per_key:
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


def _as_ndict(sample: Any) -> NDict:
    if isinstance(sample, NDict):
        return sample
    if not isinstance(sample, Mapping):
        raise TypeError(
            f"collate takes samples that are mappings of keys to values, got a {type(sample).__name__}. Wrap a "
            f"dataset of tuples in DatasetWrapSeqToDict."
        )
    return NDict(sample)


def _check_keys(samples: list[NDict], keys: Collection[str]) -> None:
    """Raise if a sample lacks one of the keys."""
    for position, key in product(range(len(samples)), keys):
        if not dict.__contains__(samples[position], key):
            holder = next(i for i, other in enumerate(samples) if dict.__contains__(other, key))
            raise ValueError(
                f"All samples of a batch must hold the same keys: {_name(samples, position)} lacks {key!r}, which "
                f"{_name(samples, holder)} holds. Add it, skip it with Collate(skip_keys=[{key!r}]), or fill in None "
                f"with Collate(missing='none')."
            )


_NUMBER = (bool, int, float, complex, np.number, np.bool_)


def _batched(values: list[Any]) -> Any:
    types = set(map(type, values))
    kinds = {next((kind for kind in (Tensor, np.ndarray, _NUMBER) if issubclass(one, kind)), None) for one in types}
    if len(kinds) > 1 and type(None) not in types:
        raise TypeError("they differ in type")
    if None in kinds:
        return values
    if kinds == {_NUMBER}:
        if len(types) > 1 and any(issubclass(one, float | np.floating) for one in types):
            values = [float(value) for value in values]  # otherwise the first value's type would decide the dtype
    elif len({value.dtype for value in values}) > 1:
        raise TypeError("they differ in dtype")
    elif kinds == {np.ndarray}:
        if values[0].dtype.kind not in "biufc":  # tensors cannot hold text, objects or dates
            return values
        return torch.from_numpy(np.stack(values))  # converts once; `default_collate` converts each array
    return default_collate(values)


def _disagreement(samples: list[NDict], key: str, values: list[Any], error: Exception) -> ValueError:
    """An error that names two samples that disagree in `key`."""
    descriptions = [_describe(value) for value in values]
    other = next((i for i, description in enumerate(descriptions) if description != descriptions[0]), None)
    if other is None:
        return ValueError(f"collate could not batch {key!r} ({descriptions[0]} in every sample): {error}")
    return ValueError(
        f"All samples of a batch must agree in {key!r}: {_name(samples, 0)} holds {descriptions[0]}, "
        f"{_name(samples, other)} holds {descriptions[other]}. Make them equal in the dataset, or give "
        f"Collate(per_key={{{key!r}: ...}}) a function that batches them, such as fuse_core.pad_to_largest()."
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return type(value).__name__


def _name(samples: list[NDict], position: int) -> str:
    sample_id = samples[position].get(SAMPLE_ID)
    return f"the sample at position {position}" if sample_id is None else f"sample {sample_id!r}"


collate = Collate()
