"""Block 1, the loaders: samples get keys, a sampler orders them, and `Collate` makes batches of them.

Only training batches are augmented. Keys written: `data.sample_id` (a list of strings), and the task's keys for image
and target.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from fuse_core import Collate, DatasetWrapSeqToDict, NDict

from .settings import Settings
from .task import Samples, Task


def make_dataset(task: Task, split: str, samples: Samples) -> DatasetWrapSeqToDict:
    """A dataset of NDicts, made from a dataset of tuples.

    For your own data, replace the TensorDataset by any dataset whose `__getitem__` returns a tuple (read from a file,
    for instance), and name the tuple's elements in `sample_keys`. A dataset that returns dicts with dotted keys,
    `{"data.sample_id": ..., "data.image": ...}`, needs no wrapper.
    """
    tuples = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.targets))
    return DatasetWrapSeqToDict(
        tuples,
        sample_keys=[task.IMAGE_KEY, task.TARGET_KEY],
        # Ids name the sample in predictions.csv, in pictures and in error messages. Use the patient's or file's name.
        sample_ids=sample_ids(split, samples),
    )


def sample_ids(split: str, samples: Samples) -> list[str]:
    """An identifier for each sample, such as `test-0042`."""
    return [f"{split}-{index:04d}" for index in range(len(samples.targets))]


def make_sampler(kind: str, targets: Tensor) -> Sampler[int]:
    """The order of an epoch's training samples.

    `shuffle` takes each sample once. `balanced` draws as many samples, with replacement, and draws every class equally
    often; use it if a class is rare. The alternative is class weights in the loss.
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
