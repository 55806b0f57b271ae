import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fuse_core import NDict


@pytest.fixture
def batch():
    return NDict(
        {
            "data.sample_id": ["p", "q", "r"],
            "data.image": torch.arange(6).view(3, 2),
            "data.array": np.array([10, 11, 12]),
            "losses.total_loss": torch.tensor(0.5),
            "global_step": 7,
            "note": "text",
            "shape": (1, 2),
        }
    )


@pytest.mark.parametrize(
    "index",
    [
        [0, 2],
        (0, -1),
        [True, False, True],
        np.array([0, 2]),
        np.array([True, False, True]),
        torch.tensor([0, 2]),
        torch.tensor([True, False, True]),
        slice(None, None, 2),
    ],
    ids=repr,
)
def test_every_form_of_index_chooses_the_same_samples(batch, index):
    chosen = batch.indices(index)
    assert type(chosen) is NDict
    assert chosen["data.sample_id"] == ["p", "r"]
    assert chosen["data.image"].tolist() == [[0, 1], [4, 5]]
    assert chosen["data.array"].tolist() == [10, 12]
    assert isinstance(chosen["data.array"], np.ndarray)
    assert len(batch["data.sample_id"]) == 3


def test_values_without_a_batch_axis_are_kept(batch):
    chosen = batch.indices([1])
    for key in ("losses.total_loss", "global_step", "note", "shape"):
        assert chosen[key] is batch[key]


def test_no_index_chooses_no_samples(batch):
    for empty in ([], torch.zeros(3, dtype=torch.bool), slice(0)):
        chosen = batch.indices(empty)
        assert chosen["data.sample_id"] == []
        assert chosen["data.image"].shape == (0, 2)


def test_the_order_and_repetition_of_indices_are_kept(batch):
    assert batch.indices([2, 0, 0])["data.sample_id"] == ["r", "p", "p"]


def test_gradients_flow_through_chosen_samples():
    x = torch.ones(3, requires_grad=True)
    NDict(x=x).indices([0, 2])["x"].sum().backward()
    assert x.grad.tolist() == [1, 0, 1]


def test_a_mask_of_another_length_names_the_key(batch):
    with pytest.raises(IndexError, match=r"one entry per sample: it has 2, 'data\.sample_id' has 3 samples"):
        batch.indices([True, False])


def test_an_index_out_of_range_names_the_key(batch):
    with pytest.raises(IndexError, match=r"\[3\] are out of range for 'data\.sample_id', which has 3 samples"):
        batch.indices([3])


@pytest.mark.parametrize("index", [[0, 1], slice(1), [True, False, True]])
def test_values_of_different_lengths_are_an_error_that_names_the_keys(batch, index):
    batch["data.short"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"'data\.sample_id' holds 3, 'data\.short' holds 2"):
        batch.indices(index)


@pytest.mark.parametrize("index", [np.array([1, 0, 1], dtype=np.uint8), torch.tensor([1, 0, 1], dtype=torch.uint8)])
def test_small_integers_are_indices_for_every_kind_of_value(batch, index):
    chosen = batch.indices(index)
    assert chosen["data.sample_id"] == ["q", "p", "q"]
    assert chosen["data.image"].tolist() == [[2, 3], [0, 1], [2, 3]]


def test_slices_may_run_backwards(batch):
    assert batch.indices(slice(None, None, -1))["data.image"].tolist() == [[4, 5], [2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([0.5], TypeError, "booleans or integers, got float64"),
        ([True, 2], TypeError, r"not both: got \[True, 2\]"),
        ([[0]], IndexError, r"shape \(1, 1\)"),
    ],
)
def test_other_indices_are_rejected(batch, index, error, message):
    with pytest.raises(error, match=message):
        batch.indices(index)


class MetaTensor(torch.Tensor):
    """Stands for MONAI's class, which is not among the requirements of the tests. It holds one name per sample."""


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), slice(None, None, -2), [True, False, True]])
def test_samples_of_monais_tensors_keep_their_own_metadata(monkeypatch, index):
    stacked = SimpleNamespace(MetaObj=MetaTensor, collate_meta_tensor=lambda tensors: [int(one) for one in tensors])
    monkeypatch.setitem(sys.modules, "monai.data.utils", stacked)
    batch = NDict(x=torch.arange(3).as_subclass(MetaTensor), y=torch.arange(3))
    chosen = batch.indices(index)
    assert chosen["x"] == chosen["y"].tolist()
