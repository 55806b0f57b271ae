import pickle

import numpy as np
import pytest
import torch

from fuse_core import Collate, pad_to_largest


def test_pad_to_largest_pads_at_the_end():
    boxes = Collate(per_key={"boxes": pad_to_largest(value=-1, min_size=(1, 5))})
    batch = boxes([{"boxes": torch.ones(2, 4)}, {"boxes": torch.zeros(3, 4)}])
    assert batch["boxes"].shape == (2, 3, 5)
    assert (batch["boxes"][0, :2, :4] == 1).all()
    assert (batch["boxes"][0, 2] == -1).all()
    assert (batch["boxes"][:, :, 4] == -1).all()


def test_pad_to_largest_takes_arrays_and_pickles():
    padded = pickle.loads(pickle.dumps(pad_to_largest(value=7)))([np.array([1]), np.array([2, 3])])
    assert padded.tolist() == [[1, 7], [2, 3]]


def test_pad_to_largest_rejects_ranks_and_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one rank and dtype, got rank 1 .*float32, rank 2 .*float32"):
        pad_to_largest()([torch.zeros(1), torch.zeros(1, 1)])
    with pytest.raises(ValueError, match=r"one entry an axis: 1, got \(2, 2\)"):
        pad_to_largest(min_size=(2, 2))([torch.zeros(1)])
