"""A training loader whose batches depend on the seed, the epoch and the batch's number alone."""

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader, rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fuse_core import collate

from ..processes import rank_and_world_size


def resumable_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int = 1,
    shuffle: bool = True,
    seed: int | None = None,
    drop_last: bool = False,
    collate_fn: Callable[[Any], Any] = collate,
    **options: Any,
) -> "ResumableLoader":
    """A training loader with which a run resumed inside an epoch gets the same batches as an uninterrupted run.

    The order of the samples depends on seed and epoch, and the random numbers that samples and `collate_fn` draw
    (PyTorch's, NumPy's and Python's global generators) depend on seed, epoch and the batch's number. So the batches do
    not depend on the number of workers, and to resume, no batch is loaded to be skipped. In distributed training each
    process gets its share of the samples, as with `DistributedSampler`.

    A checkpoint of Lightning stores the loader's position. Lightning calls `set_epoch` before each epoch; in a loop of
    your own, call it yourself.

    Args:
        dataset: a dataset with `__len__` and `__getitem__`.
        batch_size: samples per batch.
        shuffle: draw a new random order in each epoch.
        seed: the seed; None takes that of `seed_everything`, or else a random one.
        drop_last: leave out the last batch if it is smaller than `batch_size`.
        collate_fn: makes a batch of a list of samples.
        options: further arguments of `torch.utils.data.DataLoader`, such as `num_workers`.

    Raises:
        TypeError: a dataset without a length, or an option that would draw the samples in another way.
        ValueError: `batch_size` is below 1.

    Example:
        >>> loader = resumable_loader(list(range(6)), batch_size=2, seed=0, collate_fn=list)
        >>> batches = iter(loader)
        >>> first = next(batches)
        >>> position, rest = loader.state_dict(), list(batches)
        >>> resumed = resumable_loader(list(range(6)), batch_size=2, seed=1, collate_fn=list, num_workers=0)
        >>> resumed.load_state_dict(position)
        >>> list(resumed) == rest
        True
    """
    if not hasattr(dataset, "__len__"):
        raise TypeError(
            f"resumable_loader takes a dataset with __len__ and __getitem__, got {type(dataset).__name__}. Give an "
            f"IterableDataset to a DataLoader."
        )
    for name in ("sampler", "batch_sampler", "generator"):
        if name in options:
            raise TypeError(
                f"resumable_loader takes no {name}=: seed and epoch decide which samples a batch has. Use shuffle=, or "
                f"a DataLoader."
            )
    return ResumableLoader(
        dataset, SeededBatches(cast(Sized, dataset), batch_size, shuffle, seed, drop_last), collate_fn, options
    )


class ResumableLoader:
    """See `resumable_loader`."""

    def __init__(
        self, dataset: Dataset[Any], batches: "SeededBatches", collate_fn: Callable[[Any], Any], options: dict[str, Any]
    ) -> None:
        self.dataset = dataset
        self.batch_size = batches.batch_size
        self.batch_sampler = batches  # Lightning calls `set_epoch` on its `sampler`
        self._loader: DataLoader[Any] = DataLoader(
            SeededDataset(dataset),
            batch_sampler=batches,
            collate_fn=SeededCollate(collate_fn),  # type: ignore[arg-type]  # a list with more
            generator=torch.Generator(),  # a DataLoader draws from it; the global generator is left to the training
            **options,
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        return self._batches(self.batch_sampler.take_position())

    def _batches(self, position: tuple[int, int] | None) -> Iterator[Any]:
        # A generator: Lightning calls `set_epoch` between `iter` and the first batch.
        self.batch_sampler.begin(position)
        for batch in self._loader:
            self.batch_sampler.position += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and random numbers the next iteration uses."""
        self.batch_sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The position: the seed, the epoch, and the number of batches given in it."""
        batches = self.batch_sampler
        return {"seed": batches.seed, "epoch": batches.epoch, "batch": batches.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at a position: the next iteration gives the rest of that epoch."""
        self.batch_sampler.seed = state_dict["seed"]
        self.batch_sampler.continue_at(state_dict["epoch"], state_dict["batch"])


class _SeededBatch(list[int]):
    """The positions of a batch's samples in the dataset, with the seed of the batch."""

    seed: int


class SeededBatches(Sampler[list[int]]):
    """The batches of one epoch as positions in the dataset, with a seed for each batch; see `resumable_loader`."""

    def __init__(self, samples: Sized, batch_size: int, shuffle: bool, seed: int | None, drop_last: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"resumable_loader(batch_size=) is at least 1, got {batch_size}.")
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        # An int: a checkpoint holds no NumPy number, and another type would be mixed to another seed.
        self.seed = int((os.environ.get("PL_GLOBAL_SEED") or torch.initial_seed()) if seed is None else seed)
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0  # the number of batches given in this epoch
        self._continue_at: tuple[int, int] | None = None  # epoch and batch
        self._resumed: int | None = None  # the epoch to continue in, until its first batch
        self._called: int | None = None  # the last number that `set_epoch` was given
        self._ahead = 0  # how far the epochs of `set_epoch` are ahead of those of the checkpoint
        self.sampler = self  # Lightning's place for `set_epoch`
        self._samples = samples
        self._same_seed = seed is not None or "PL_GLOBAL_SEED" in os.environ

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch.

        Lightning counts an epoch that `max_steps` ended as over, and goes on in it when the training is resumed. So
        after `continue_at`, the first epoch with a batch is the one to continue in, whatever number it is called by.
        """
        self._called = epoch
        self.epoch = epoch - self._ahead

    def continue_at(self, epoch: int, batch: int) -> None:
        """Have the next iteration continue at a batch of an epoch."""
        self.epoch = epoch
        self._continue_at = (epoch, batch)
        self._resumed = epoch if batch < len(self) else epoch + 1
        self._called, self._ahead = None, 0

    def take_position(self) -> tuple[int, int] | None:
        """The position to continue at, for one iteration."""
        position, self._continue_at = self._continue_at, None
        return position

    def begin(self, position: tuple[int, int] | None) -> None:
        """Start an iteration at a position, or else at the epoch's first batch."""
        self.position = 0
        if position is not None:
            self.epoch, self.position = position
        if self._resumed is not None and self.position < len(self):
            if self._called == self._resumed - 1:  # a shorter loader beside others, which begins again within the epoch
                self._resumed -= 1
            self._ahead = 0 if self._called is None else self._called - self._resumed
            self.epoch, self._resumed = self._resumed, None

    def __len__(self) -> int:
        own = -(-len(self._samples) // rank_and_world_size()[1])
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = rank_and_world_size()
        if processes > 1 and not self._same_seed:
            seeds = [self.seed]
            torch.distributed.broadcast_object_list(seeds)
            self.seed, self._same_seed = seeds[0], True
        order: Sequence[int] = range(len(self._samples))
        if self.shuffle:
            generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
            order = torch.randperm(len(order), generator=generator).tolist()
        repeated = [*order, *itertools.islice(itertools.cycle(order), -len(order) % processes)]
        own = repeated[rank::processes]
        for number in range(self.position, len(self)):
            batch = _SeededBatch(own[number * self.batch_size : (number + 1) * self.batch_size])
            batch.seed = _mixed(self.seed, self.epoch, number, rank)
            yield batch


class _Samples(list[Any]):
    """The samples of a batch, with the random states from before they were drawn."""

    states: Any = None


class SeededDataset(Dataset[Any]):
    """Draws the samples of a batch from the batch's seed, or else from a seed of the samples' positions."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, batch: list[int]) -> _Samples:
        # A worker process draws nothing but batches. The training's own process goes on where it was.
        states = _random_states() if get_worker_info() is None else None
        seed = batch.seed if isinstance(batch, _SeededBatch) else _mixed(*batch)
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        together = getattr(self.dataset, "__getitems__", None)
        try:
            samples = _Samples(together(batch) if together else [self.dataset[i] for i in batch])
        except BaseException:
            _restore(states)
            raise
        samples.states = states
        return samples


class SeededCollate:
    """Collates with the random numbers of the batch, then restores the states from before the batch."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: _Samples) -> Any:
        """Make a batch."""
        try:
            return self.collate_fn(list(samples))
        finally:
            _restore(samples.states)


def _random_states() -> Any:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: Any) -> None:
    if states is not None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits that depends on all numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def refuse_shuffling(trainer: pl.Trainer) -> None:
    """Raise ValueError if `overfit_batches` would get other batches each epoch: Lightning orders only a DataLoader."""
    batches = trainer.overfit_batches  # type: ignore[attr-defined]  # set by one of its connectors
    for loader in CombinedLoader(trainer.train_dataloader, "sequential").flattened if batches else ():
        if isinstance(loader, ResumableLoader) and loader.batch_sampler.shuffle:
            raise ValueError(
                f"Trainer(overfit_batches={batches}) trains on the same batches in every epoch, but this "
                f"resumable_loader shuffles: each epoch would begin with other batches. Give it shuffle=False."
            )


def warn_of_loaders(trainer: pl.Trainer) -> bool:
    """Warn if a checkpoint is written inside an epoch, but a training loader cannot continue there.

    Returns:
        Whether there was a warning.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch or progress.current.ready == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    for loader in CombinedLoader(trainer.train_dataloader, "sequential").flattened:
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
            rank_zero_warn(
                f"A checkpoint is written inside an epoch, but the training loader, a {type(loader).__name__}, cannot "
                f"continue there: a run that is resumed from it begins with the epoch's first batches again. Use "
                f"fuse_lightning.resumable_loader(dataset, ...), DataModuleDefault, or a loader with state_dict and "
                f"load_state_dict, such as torchdata's StatefulDataLoader."
            )
            return True
    return False
