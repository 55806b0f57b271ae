"""Block 1, the loaders of batch_dicts: samples get key names, a sampler orders them, `Collate` makes batches of them.

Training batches alone are augmented. Keys written: `data.sample_id` (a list of texts), and the image's and the target's
key of the task.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from fuse_core import Collate, DatasetWrapSeqToDict, NDict

from .settings import Settings
from .task import Samples, Task


def make_dataset(task: Task, split: str, samples: Samples) -> DatasetWrapSeqToDict:
    """A dataset of NDicts, one a sample, from one of tuples.

    For data of your own replace the TensorDataset by any dataset with `__len__` and `__getitem__` that returns a tuple
    (reading a file for instance), and name the tuple's elements in `sample_keys`. A dataset that returns dicts with
    dotted keys, `{"data.sample_id": ..., "data.image": ...}`, needs no wrapper at all.
    """
    tuples = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.targets))
    return DatasetWrapSeqToDict(
        tuples,
        sample_keys=[task.IMAGE_KEY, task.TARGET_KEY],
        # Ids that name the sample wherever it turns up: in predictions.csv, in pictures, in error messages. Use the
        # patient's or the file's name.
        sample_ids=sample_ids(split, samples),
    )


def sample_ids(split: str, samples: Samples) -> list[str]:
    """An identifier for each sample, such as `test-0042`."""
    return [f"{split}-{index:04d}" for index in range(len(samples.targets))]


def make_sampler(kind: str, targets: Tensor) -> Sampler[int]:
    """The order of an epoch's training samples.

    `shuffle` takes each sample once. `balanced` draws as many samples, with replacement, so that every class is as
    likely: for data in which a class is rare. The alternative to it are class weights in the loss.
    """
    if kind == "shuffle":
        return RandomSampler(targets.tolist())
    frequencies = torch.bincount(targets).float()
    return WeightedRandomSampler((1 / frequencies[targets]).tolist(), num_samples=len(targets))


def make_training_loader(task: Task, samples: Samples, settings: Settings) -> "DataLoader[NDict]":
    """A loader of augmented batches in the sampler's order."""
    if settings.max_train_samples is not None:
        count = settings.max_train_samples
        samples = Samples(samples.images[:count], samples.targets[:count])
    dataset = make_dataset(task, "train", samples)
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=make_sampler(settings.sampler, torch.from_numpy(samples.targets)),
        # Augmentation of a whole batch at once is fast. For one sample at a time, augment in the dataset.
        collate_fn=Collate(post=task.augment),
        # num_workers=4,  # for data that takes time to load: that many processes load it ahead. Not worth it here.
        # drop_last=True,  # where a last batch of one sample would upset batch normalization
    )


def make_evaluation_loader(task: Task, split: str, samples: Samples, settings: Settings) -> "DataLoader[NDict]":
    """A loader of the samples as they are, in their order, for validation and prediction."""
    dataset = make_dataset(task, split, samples)
    return DataLoader(dataset, batch_size=settings.batch_size, shuffle=False, collate_fn=Collate())
