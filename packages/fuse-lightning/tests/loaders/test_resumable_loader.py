import random

import numpy as np
import pytest
import torch

from fuse_lightning import resumable_loader
from fuse_lightning.loaders import resumable_loader as module


class Augmented(torch.utils.data.Dataset):
    """A sample draws from all three generators."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return i, torch.rand(()).item(), np.random.rand(), random.random()


def epoch(loader, number):
    batches = iter(loader)  # Lightning calls set_epoch after this
    loader.set_epoch(number)
    return list(batches)


def make(count=11, **options):
    return resumable_loader(Augmented(count), **{"batch_size": 2, "seed": 3, "collate_fn": list} | options)


def test_an_epoch_has_every_sample_once_in_a_new_order():
    loader = make()
    first, second = ([sample[0] for batch in epoch(loader, number) for sample in batch] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(11))
    assert first != second
    assert len(loader) == 6


def test_a_numpy_seed_is_the_same_number_before_and_after_a_resume():
    assert epoch(make(seed=np.int64(3), batch_size=np.int64(2)), 0) == epoch(make(), 0)
    assert type(make(seed=np.int64(3)).state_dict()["seed"]) is int


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from range(4)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Stream(), {}, r"a dataset with __len__ and __getitem__, got Stream\. Give an Iterable"),
        ([0, 1], {"sampler": [1, 0]}, r"takes no sampler=: seed and epoch decide .* Use shuffle=, or"),
    ],
)
def test_what_cannot_be_resumed_is_refused(dataset, options, message):
    with pytest.raises(TypeError, match=message):
        resumable_loader(dataset, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    expected = make()
    loader = make(num_workers=workers, persistent_workers=True)
    for number in (0, 1):
        assert epoch(loader, number) == epoch(expected, number)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [0, 1, 4, 6])
def test_a_loader_continues_where_another_one_was(batch, workers):
    loader = make()
    loader.set_epoch(2)
    batches = iter(loader)
    for _ in range(batch):
        next(batches)
    state = loader.state_dict()
    rest = list(batches)
    resumed = make(seed=None, num_workers=workers)
    resumed.load_state_dict(state)
    assert epoch(resumed, 2) == rest
    assert epoch(resumed, 3) == epoch(loader, 3)


def test_the_epoch_of_a_position_is_continued_whatever_lightning_calls_it():
    expected = make()
    loader = make()
    loader.load_state_dict({"seed": 3, "epoch": 1, "batch": 4})
    assert epoch(loader, 2) == epoch(expected, 1)[4:]
    assert epoch(loader, 3) == epoch(expected, 2)


def test_an_iteration_without_a_batch_uses_the_position_up():
    loader = make()
    loader.load_state_dict({"seed": 3, "epoch": 0, "batch": 6})
    iter(loader)
    loader.set_epoch(1)
    assert epoch(loader, 2) == epoch(make(), 1)


def test_the_random_numbers_of_the_training_process_are_left_alone():
    loader = make(collate_fn=lambda samples: torch.rand(3))
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    batches = epoch(loader, 0)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected
    assert all(torch.equal(*pair) for pair in zip(batches, epoch(loader, 0), strict=True))


def test_a_sample_that_fails_leaves_the_random_numbers_alone_too():
    def fail(samples):
        raise KeyError("x")

    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(KeyError, match="x"):
        epoch(make(collate_fn=fail), 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [2, 2, 2]), (True, [2, 2, 2])])
def test_processes_share_the_samples_of_one_order(monkeypatch, drop_last, sizes):
    alone = [sample[0] for batch in epoch(make(), 0) for sample in batch]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(module, "rank_and_world_size", lambda rank=rank: (rank, 2))
        loader = make(drop_last=drop_last)
        batches = epoch(loader, 0)
        assert [len(batch) for batch in batches] == sizes
        assert len(loader) == 3
        shares.append([sample[0] for batch in batches for sample in batch])
    interleaved = [sample for pair in zip(*shares, strict=True) for sample in pair]
    assert interleaved == [*alone, alone[0]]


@pytest.mark.parametrize("count", [1, 2])
def test_each_process_has_a_sample_of_a_dataset_smaller_than_their_number(monkeypatch, count):
    shares = []
    for rank in range(5):
        monkeypatch.setattr(module, "rank_and_world_size", lambda rank=rank: (rank, 5))
        (batch,) = epoch(make(count), 0)
        shares += [sample[0] for sample in batch]
    assert len(shares) == 5
    assert set(shares) == set(range(count))


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match=r"resumable_loader\(batch_size=\) is at least 1, got 0"):
        make(batch_size=0)


def test_a_shorter_loader_beside_others_goes_on_within_the_epoch_or_in_the_next():
    def loader(epoch):
        made = resumable_loader(list(range(6)), batch_size=2, seed=0, collate_fn=list)
        made.set_epoch(epoch)
        return made

    whole = loader(0)
    expected, position = list(whole), whole.state_dict()
    assert list(whole) == expected  # begun again
    for epoch, batches in ((0, expected), (1, list(loader(1)))):
        resumed = loader(0)
        resumed.load_state_dict(position)
        resumed.set_epoch(epoch)  # Lightning's, when training starts
        assert list(resumed) == []
        assert list(resumed) == batches


def test_batches_to_overfit_are_not_shuffled(make_module, make_trainer, make_loader):
    loader = resumable_loader(make_loader(16).dataset, batch_size=4)
    with pytest.raises(ValueError, match=r"overfit_batches=2\) trains on the same batches .* Give it shuffle=False"):
        make_trainer(overfit_batches=2).fit(make_module(model_dir=None), loader)
