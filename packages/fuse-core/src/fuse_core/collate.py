"""Samples to a batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .flat_keys import has_branch
from .key_names import SAMPLE_ID
from .ndict import NDict


class Collate:
    """Makes a batch of samples. For a `DataLoader`'s `collate_fn`; `collate` is one with the default options.

    Each key of the samples becomes a key of the batch. Tensors, arrays and numbers are batched along a new first axis
    as PyTorch's `default_collate` does it, everything else becomes a list with an entry per sample, as `data.sample_id`
    always does. Values of which some are None become a list too. Lists come last in the batch's order.

    Args:
        keep_keys: take these keys and branches only, and `data.sample_id`; None takes all.
        skip_keys: leave these keys and branches out, whatever `keep_keys` says.
        missing: what to do where samples hold different keys: `"raise"`, or `"none"` to fill in None.
        per_key: functions of one key's list of values that return what the batch holds, such as `pad_to_largest()`.
        post: a function of the finished batch that returns the batch to use.

    Raises:
        ValueError: samples disagree in keys, types, dtypes or shapes. The message names the sample, the key and both.

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
        """The batch of the samples, which may be any mappings, nested or dotted."""
        if not samples:
            raise ValueError("collate needs at least one sample, got none.")
        flat = [_as_ndict(sample) for sample in samples]
        keys = flat[0].keys()
        if all(sample.keys() == keys for sample in flat):
            values_by_key = {key: [sample[key] for sample in flat] for key in keys if self._is_chosen(key)}
        else:
            keys = dict.fromkeys(key for sample in flat for key in sample).keys()
            chosen = [key for key in keys if self._is_chosen(key)]
            if self.missing == "raise":
                _check_keys(flat, chosen)
            # Not `sample.get`: what is a leaf in one sample may be a branch in another.
            values_by_key = {key: [dict.get(sample, key) for sample in flat] for key in chosen}

        if self.missing == "raise":
            self._check_options(values_by_key)
        batched: dict[str, Any] = {}
        listed: dict[str, Any] = {}
        for key, values in values_by_key.items():
            value = self._collated(flat, key, values)
            (listed if isinstance(value, list) else batched)[key] = value
        # Lists go last: torch 2.13's compiler guards on the value of a dict's first entry, and a list of sample ids
        # there would have it compile anew for each batch.
        batch = NDict(batched | listed)
        return batch if self.post is None else self.post(batch)

    def _collated(self, samples: list[NDict], key: str, values: list[Any]) -> Any:
        if key in self.per_key:
            try:
                return self.per_key[key](values)
            except (ValueError, RuntimeError, TypeError) as error:
                names = ", ".join(_name(sample, position) for position, sample in enumerate(samples))
                raise ValueError(f"Collate's per_key function for {key!r} failed on {names}: {error}") from error
        if key == SAMPLE_ID:
            return values
        try:
            return _batched(values)
        except (ValueError, RuntimeError, TypeError) as error:
            raise _disagreement(samples, key, values, error) from error

    def _check_options(self, chosen: Mapping[str, Any]) -> None:
        """Raise if an option names a key that no sample holds, which is a misspelling more often than not."""
        options = {"keep_keys": [key for key in self.keep_keys or () if key != SAMPLE_ID], "per_key": self.per_key}
        for option, keys in options.items():
            for key in keys:
                if key not in chosen and not has_branch(chosen, key):
                    raise ValueError(
                        f"Collate({option}=) names {key!r}, which the samples do not hold or which is left out. They "
                        f"hold {', '.join(map(repr, chosen))}. Correct it, or pass Collate(missing='none')."
                    )

    def _is_chosen(self, key: str) -> bool:
        def among(chosen: Iterable[str]) -> bool:
            return any(key == other or key.startswith(f"{other}.") for other in chosen)

        return (self.keep_keys is None or among(self.keep_keys)) and not among(self.skip_keys)


def _as_ndict(sample: Any) -> NDict:
    if isinstance(sample, NDict):
        return sample
    if not isinstance(sample, Mapping):
        raise TypeError(
            f"collate takes samples that are mappings of keys to values, got a {type(sample).__name__}. Wrap a "
            f"dataset of tuples in DatasetWrapSeqToDict."
        )
    return NDict(sample)


def _check_keys(samples: list[NDict], keys: list[str]) -> None:
    """Raise if a sample lacks one of the keys."""
    for position, sample in enumerate(samples):
        for key in keys:
            if not dict.__contains__(sample, key):
                holder = next(i for i, other in enumerate(samples) if dict.__contains__(other, key))
                raise ValueError(
                    f"All samples of a batch must hold the same keys: {_name(sample, position)} lacks {key!r}, "
                    f"which {_name(samples[holder], holder)} holds. Add it, skip it with "
                    f"Collate(skip_keys=[{key!r}]), or fill in None with Collate(missing='none')."
                )


def _batched(values: list[Any]) -> Any:
    types = set(map(type, values))
    kinds = {_kind(value_type) for value_type in types}
    if len(kinds) > 1:
        if types & {type(None)}:
            return values
        raise TypeError("they differ in type")
    kind = kinds.pop()
    if kind is None:
        return values
    if kind is not _NUMBER:
        if len({value.dtype for value in values}) > 1:
            raise TypeError("they differ in dtype")
        if kind is np.ndarray:
            if values[0].dtype.kind not in "biufc":  # text, objects, dates: no tensor can hold them
                return values
            return torch.from_numpy(np.stack(values))  # one conversion; PyTorch's function converts each sample's array
    elif len(types) > 1 and any(issubclass(value_type, float | np.floating) for value_type in types):
        values = [float(value) for value in values]  # else the first value's type would decide for all
    return default_collate(values)


_NUMBER = (bool, int, float, complex, np.number, np.bool_)


def _kind(value_type: type) -> Any:
    """The kind of value that PyTorch batches, or None for the kinds that are listed."""
    for kind in (Tensor, np.ndarray, _NUMBER):
        if issubclass(value_type, kind):
            return kind
    return None


def _disagreement(samples: list[NDict], key: str, values: list[Any], error: Exception) -> ValueError:
    """Which two samples disagree in `key`, and how."""
    descriptions = [_describe(value) for value in values]
    other = next((i for i, description in enumerate(descriptions) if description != descriptions[0]), None)
    if other is None:
        return ValueError(f"collate could not batch {key!r} ({descriptions[0]} in every sample): {error}")
    return ValueError(
        f"All samples of a batch must agree in {key!r}: {_name(samples[0], 0)} holds {descriptions[0]}, "
        f"{_name(samples[other], other)} holds {descriptions[other]}. Make them equal in the dataset, or give "
        f"Collate(per_key={{{key!r}: ...}}) a function that batches them, such as fuse_core.pad_to_largest()."
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return type(value).__name__


def _name(sample: NDict, position: int) -> str:
    return f"sample {sample[SAMPLE_ID]!r}" if SAMPLE_ID in sample else f"the sample at position {position}"


def pad_to_largest(value: float = 0.0, min_size: Sequence[int] | None = None) -> Callable[[list[Tensor]], Tensor]:
    """A function for `Collate(per_key=)` that batches tensors of different sizes, padded at their ends.

    Args:
        value: what the padding holds.
        min_size: the smallest size of each axis after padding, one entry an axis.

    Returns:
        A function of tensors or arrays, all of one rank and dtype, that returns the tensor `[B, *largest size]`.

    Example:
        >>> pad_to_largest(value=-1)([torch.tensor([1, 2, 3]), torch.tensor([4])])
        tensor([[ 1,  2,  3],
                [ 4, -1, -1]])
    """
    return partial(_pad_and_stack, value=value, min_size=None if min_size is None else tuple(min_size))


def _pad_and_stack(values: list[Tensor], value: float, min_size: tuple[int, ...] | None) -> Tensor:
    tensors = [torch.as_tensor(one) for one in values]
    if len({(tensor.ndim, tensor.dtype) for tensor in tensors}) > 1:
        found = sorted({f"rank {tensor.ndim} {tensor.dtype}" for tensor in tensors})
        raise ValueError(f"pad_to_largest needs tensors of one rank and dtype, got {', '.join(found)}.")
    rank = tensors[0].ndim
    if min_size is not None and len(min_size) != rank:
        raise ValueError(f"pad_to_largest(min_size=) needs one entry an axis: {rank}, got {min_size}.")
    smallest = min_size or (0,) * rank
    size = [max(smallest[axis], *(tensor.shape[axis] for tensor in tensors)) for axis in range(rank)]
    batch = tensors[0].new_full((len(tensors), *size), value)
    for row, tensor in zip(batch, tensors, strict=True):
        row[tuple(slice(length) for length in tensor.shape)] = tensor
    return batch


collate = Collate()
