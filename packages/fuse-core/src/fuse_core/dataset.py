"""Datasets of tuples as datasets of NDict samples."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch.utils.data import Dataset

from .key_names import SAMPLE_ID
from .ndict import NDict


class MapStyleDataset(Protocol):
    """An object with a length and items by index, such as a torch `Dataset` or a list."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


class DatasetWrapSeqToDict(Dataset[NDict]):
    """Turns each sample of a map-style dataset into an NDict, with one key for each element of the tuple.

    Args:
        dataset: its samples are tuples, lists or single values.
        sample_keys: the keys of the elements. For samples that are single values, one key, as a string or in a list.
        name: the name of the dataset or split. The sample ids are `(name, index)`.
        sample_ids: other sample ids, one per sample.

    Raises:
        TypeError: `dataset` is a string, as in FuseMedML's order of arguments.
        ValueError: `sample_ids` and the dataset differ in length, a key is given twice, or `sample_keys` and a sample
            differ in length.

    Example:
        >>> dataset = DatasetWrapSeqToDict([(0.5, 1), (0.7, 0)], ["data.feature", "data.label"], name="train")
        >>> dataset[1]
        NDict({'data.sample_id': ('train', 1), 'data.feature': 0.7, 'data.label': 0})
    """

    def __init__(
        self,
        dataset: MapStyleDataset,
        sample_keys: Sequence[str] | str,
        name: str = "dataset",
        sample_ids: Sequence[Any] | None = None,
    ) -> None:
        if isinstance(dataset, str):
            raise TypeError(
                f"DatasetWrapSeqToDict(dataset=) takes a dataset, got the string {dataset!r}. FuseMedML's order was "
                f"name, dataset, sample_keys: write DatasetWrapSeqToDict(dataset, sample_keys, name={dataset!r})."
            )
        if sample_ids is not None and len(sample_ids) != len(dataset):
            raise ValueError(
                f"DatasetWrapSeqToDict needs one sample id per sample: the dataset has {len(dataset)} samples, "
                f"sample_ids has {len(sample_ids)}."
            )
        if not isinstance(sample_keys, str) and len(set(sample_keys)) != len(sample_keys):
            raise ValueError(f"DatasetWrapSeqToDict needs a different key for each element, got {list(sample_keys)}.")
        self.dataset = dataset
        self.sample_keys = sample_keys if isinstance(sample_keys, str) else tuple(sample_keys)
        self.name = name
        self.sample_ids = sample_ids

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> NDict:
        sample = self.dataset[index]
        index = int(index) % len(self)
        sample_id = (self.name, index) if self.sample_ids is None else self.sample_ids[index]
        if isinstance(self.sample_keys, str):
            return NDict({SAMPLE_ID: sample_id, self.sample_keys: sample})
        if len(self.sample_keys) == 1 and not isinstance(sample, tuple | list):
            return NDict({SAMPLE_ID: sample_id, self.sample_keys[0]: sample})
        if not isinstance(sample, tuple | list) or len(sample) != len(self.sample_keys):
            got = f"{len(sample)} elements" if isinstance(sample, tuple | list) else f"a {type(sample).__name__}"
            raise ValueError(
                f"DatasetWrapSeqToDict has {len(self.sample_keys)} sample_keys {self.sample_keys}, but sample "
                f"{sample_id!r} is {got}. Give one key per element, or a single string for a single value."
            )
        return NDict({SAMPLE_ID: sample_id, **dict(zip(self.sample_keys, sample, strict=True))})
