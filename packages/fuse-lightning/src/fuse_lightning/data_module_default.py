"""A LightningDataModule of datasets."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fuse_core import collate

from .loaders.resumable_loader import ResumableLoader, SeededCollate, SeededDataset, resumable_loader

if TYPE_CHECKING:
    AnyDataset: TypeAlias = Dataset[Any]
else:  # of a subscripted class, jsonargparse would not find the arguments of its subclasses
    AnyDataset = Dataset

AnyDatasets: TypeAlias = AnyDataset | list[AnyDataset] | dict[str, AnyDataset]
"""One dataset, or several, by name or not."""

Loaders: TypeAlias = list[DataLoader[Any]] | dict[str, DataLoader[Any]]


class DataModuleDefault(pl.LightningDataModule):
    """Loaders of batch_dicts from datasets, for Python and for configuration files.

    Training batches come in random order, all others in the dataset's order. A run that is resumed inside an epoch gets
    the training batches of an uninterrupted run, see `resumable_loader`; an IterableDataset begins again. Evaluation
    data draw the same random numbers in every epoch. For samplers, write a `LightningDataModule` of your own.

    Args:
        train: the training dataset.
        validation: the validation dataset, a list of datasets, or a dict of datasets by the names to log them under.
        test: as `validation`, for test.
        predict: as `validation`, for prediction; None takes `test`.
        batch_size: samples per batch, on each device.
        num_workers: processes that load batches in parallel; 0 loads them in the training process.
        collate_fn: makes a batch of a list of samples.
        train_collate_fn: the same for training, for augmentation of batches; None takes `collate_fn`.
        drop_last: leave out the last training batch if it is smaller than `batch_size`.
        pin_memory: put batches into page-locked memory, from which a GPU copies faster.

    Raises:
        TypeError: a value is not a dataset.
        ValueError: no dataset, a dataset without samples, `batch_size` below 1, `num_workers` below 0, or fewer
            training samples than `batch_size` with `drop_last`.

    Example:
        >>> from fuse_core import DatasetWrapSeqToDict
        >>> data = DataModuleDefault(train=DatasetWrapSeqToDict([(0.5, 1), (0.7, 0)], ["data.x", "data.label"]))
        >>> sorted(next(iter(data.train_dataloader())))
        ['data.label', 'data.sample_id', 'data.x']
    """

    def __init__(
        self,
        train: AnyDataset | None = None,
        validation: AnyDatasets | None = None,
        test: AnyDatasets | None = None,
        predict: AnyDatasets | None = None,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] = collate,
        train_collate_fn: Callable[[Any], Any] | None = None,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if not isinstance(number, Integral) or number < least:
                raise ValueError(f"DataModuleDefault({name}=) is an integer of at least {least}, got {number!r}.")
        given = {"train": train, "validation": validation, "test": test, "predict": predict}
        if all(datasets is None for datasets in given.values()):
            raise ValueError("DataModuleDefault needs a dataset: give train=, validation=, test= or predict=.")
        for name, datasets in given.items():
            if name != "train" and isinstance(datasets, list | tuple | dict) and not datasets:
                raise ValueError(f"DataModuleDefault({name}=) got no dataset. Give one, or None.")
            for dataset in [train] if name == "train" else _each(datasets):
                if dataset is not None and not _may_be_dataset(dataset):
                    raise TypeError(
                        f"DataModuleDefault({name}=) takes a dataset, or a list or dict of datasets; got a "
                        f"{type(dataset).__name__} in place of one. Wrap samples in DatasetWrapSeqToDict."
                    )
                if _size(dataset) == 0:
                    raise ValueError(f"DataModuleDefault({name}=) needs samples, but {dataset!r} has none.")
        size = _size(train)
        if drop_last and size is not None and size < batch_size:
            raise ValueError(
                f"DataModuleDefault(drop_last=True) leaves no batch: train has {size} samples, fewer than "
                f"batch_size={batch_size}. Use a smaller batch, or drop_last=False."
            )
        self.train, self.validation, self.test = train, validation, test
        self.predict = test if predict is None else predict
        self.drop_last = drop_last
        self.collate_fn = collate_fn
        self.train_collate_fn = collate_fn if train_collate_fn is None else train_collate_fn
        self.loader_arguments: dict[str, Any] = {
            "batch_size": int(batch_size),
            "num_workers": int(num_workers),
            "persistent_workers": num_workers > 0,
            "pin_memory": pin_memory,
        }

    def __str__(self) -> str:
        """The numbers of samples; None for a dataset without a length. Lightning's own reads only a DataLoader."""
        given = {name: getattr(self, name) for name in ("train", "validation", "test", "predict")}
        sizes = [f"{name}={[*map(_size, _each(one))]}" for name, one in given.items() if one is not None]
        return f"DataModuleDefault of {', '.join(sizes)} samples"

    @property
    def batch_size(self) -> int:
        """Samples per batch; `Tuner.scale_batch_size` sets it."""
        size: int = self.loader_arguments["batch_size"]
        return size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.loader_arguments["batch_size"] = size

    def train_dataloader(self) -> DataLoader[Any] | ResumableLoader:
        """The training batches, in a new random order each epoch; with `Trainer(overfit_batches=)` in order."""
        if self.train is None:
            raise ValueError("Training needs a dataset: give DataModuleDefault(train=).")
        options = {"drop_last": self.drop_last, "collate_fn": self.train_collate_fn, **self.loader_arguments}
        if isinstance(self.train, IterableDataset):
            return DataLoader(self.train, **options)
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return resumable_loader(self.train, shuffle=not overfits, **options)

    def val_dataloader(self) -> Loaders:
        """The validation batches; no loader without a dataset."""
        return self._loaders(self.validation)

    def test_dataloader(self) -> Loaders:
        """The test batches."""
        if self.test is None:
            raise ValueError("Testing needs a dataset: give DataModuleDefault(test=).")
        return self._loaders(self.test)

    def predict_dataloader(self) -> Loaders:
        """The batches to predict."""
        if self.predict is None:
            raise ValueError("Predicting needs a dataset: give DataModuleDefault(predict=), or test=.")
        return self._loaders(self.predict)

    def _loaders(self, datasets: AnyDatasets | None) -> Loaders:
        if isinstance(datasets, dict):
            return {name: self._loader(dataset) for name, dataset in datasets.items()}
        return [self._loader(dataset) for dataset in _each(datasets) if dataset is not None]

    def _loader(self, dataset: AnyDataset) -> DataLoader[Any]:
        # A generator of its own leaves the global one, which training draws from, where it is.
        options = {"generator": torch.Generator(), **self.loader_arguments}
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, collate_fn=self.collate_fn, **options)
        return DataLoader(SeededDataset(dataset), collate_fn=SeededCollate(self.collate_fn), **options)  # type: ignore[arg-type]


def _each(datasets: AnyDatasets | None) -> list[AnyDataset | None]:
    if isinstance(datasets, dict):
        return list(datasets.values())
    return [*datasets] if isinstance(datasets, list | tuple) else [datasets]


def _may_be_dataset(dataset: Any) -> bool:
    """Whether it can be indexed or iterated over. A mapping or text is a sample, not a dataset."""
    has_samples = hasattr(dataset, "__getitem__") or isinstance(dataset, IterableDataset)
    return has_samples and not isinstance(dataset, Mapping | str | bytes)


def _size(dataset: Any) -> int | None:
    """The number of samples; None if the dataset has no length."""
    return len(dataset) if hasattr(dataset, "__len__") else None
