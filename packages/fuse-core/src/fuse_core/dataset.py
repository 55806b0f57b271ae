"""Datasets of tuples as datasets of NDict samples."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch.utils.data import Dataset

from .key_names import SAMPLE_ID
from .ndict import NDict


class MapStyleDataset(Protocol):
    """Anything with a length and items by index: a torch `Dataset`, a list."""

    def __getitem__(self, index: int, /) -> Any:
        """The sample at `index`."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...


class DatasetWrapSeqToDict(Dataset[NDict]):
    """Gives the samples of a map-style dataset as NDicts: each element of the tuple under its own key.

    Args:
        dataset: gives a tuple or list a sample, or a single value.
        sample_keys: the key of each element; a string where a sample is a single value.
        name: the first half of the sample ids, `(name, index)`: which dataset, or which split of it.
        sample_ids: the identifiers to use instead, one per sample.

    Raises:
        ValueError: `sample_ids` is not as long as the dataset, a key is given twice, or a sample has not as many
            elements as `sample_keys`.

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
        if sample_ids is not None and len(sample_ids) != len(dataset):
            raise ValueError(
                f"DatasetWrapSeqToDict needs one sample id per sample: the dataset has {len(dataset)} samples, "
                f"sample_ids has {len(sample_ids)}."
            )
        if not isinstance(sample_keys, str) and len(set(sample_keys)) != len(sample_keys):
            raise ValueError(f"DatasetWrapSeqToDict needs a key of its own for each element, got {list(sample_keys)}.")
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
        if not isinstance(sample, tuple | list) or len(sample) != len(self.sample_keys):
            got = f"{len(sample)} elements" if isinstance(sample, tuple | list) else f"a {type(sample).__name__}"
            raise ValueError(
                f"DatasetWrapSeqToDict has {len(self.sample_keys)} sample_keys {self.sample_keys}, but sample "
                f"{sample_id!r} is {got}. Give one key per element, or a single string for a single value."
            )
        return NDict({SAMPLE_ID: sample_id, **dict(zip(self.sample_keys, sample, strict=True))})
