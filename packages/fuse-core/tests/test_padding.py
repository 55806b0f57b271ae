import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fuse_core import Collate, collate, pad_to_largest


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
    with pytest.raises(ValueError, match=r"one entry per axis: 1, got \(2, 2\)"):
        pad_to_largest(min_size=(2, 2))([torch.zeros(1)])


def test_padding_keeps_the_graph():
    samples = [{"x": torch.ones(1, n, requires_grad=True)} for n in (2, 3)]
    Collate(per_key={"x": pad_to_largest(value=5)})(samples)["x"].sum().backward()
    assert [sample["x"].grad.tolist() for sample in samples] == [[[1, 1]], [[1, 1, 1]]]


def test_values_that_are_missing_in_some_samples_are_listed():
    samples = [{"x": torch.zeros(1), "y": 1}, {"y": 2}]
    assert Collate(missing="none", per_key={"x": pad_to_largest()})(samples)["x"] == [torch.zeros(1), None]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "pads tensors and arrays, got a str"),
        (torch.ones(2).to_sparse(), "pads dense tensors, got a sparse one"),
        (
            torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged),
            "dense tensors, got a nested one",
        ),
    ],
)
def test_what_cannot_be_padded_is_named(value, message):
    with pytest.raises(ValueError, match=f"per_key function for 'x' failed on .*{message}"):
        Collate(per_key={"x": pad_to_largest()})([{"x": value}])


def test_numbers_and_truth_values_are_padded_too():
    assert pad_to_largest()([torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]
    assert pad_to_largest(value=True)([torch.tensor([False]), torch.tensor([False, False])]).tolist() == [
        [False, True],
        [False, False],
    ]


class MetaTensor(torch.Tensor):
    """Stands for MONAI's class, which is not among the requirements of the tests."""


def test_monai_stacks_its_own_tensors(monkeypatch):
    module = SimpleNamespace(MetaObj=MetaTensor, collate_meta_tensor=lambda tensors: ("stacked by MONAI", len(tensors)))
    monkeypatch.setitem(sys.modules, "monai.data.utils", module)
    samples = [{"x": torch.ones(2).as_subclass(MetaTensor), "plain": torch.ones(2)}] * 2
    batch = collate(samples)
    assert batch["x"] == Collate(per_key={"x": pad_to_largest()})(samples)["x"] == ("stacked by MONAI", 2)
    assert batch["plain"].shape == (2, 2)


@pytest.mark.parametrize(
    ("values", "padding"),
    [
        ([[1], [2, 3]], 0.5),
        ([[1], [2, 3]], float("nan")),
        ([[1], [2, 3]], float("inf")),
        ([[True], [True, False]], 2),
        ([torch.zeros(2, dtype=torch.uint8)] * 2, -1),  # nothing to pad here, but in another batch
        ([np.zeros(1, np.uint16), np.zeros(2, np.uint16)], -100),
        ([torch.zeros(1, dtype=torch.int8), torch.zeros(2, dtype=torch.int8)], 255),
    ],
)
def test_a_padding_that_the_dtype_does_not_hold_is_refused(values, padding):
    with pytest.raises(ValueError, match=rf"pad_to_largest\(value={padding}\) is not a value of torch\."):
        pad_to_largest(padding)(values)


def test_arrays_are_padded_whatever_their_layout_in_memory():
    arrays = [np.arange(3)[::-1], np.arange(2, dtype=">i8"), np.asfortranarray(np.arange(1))]
    assert pad_to_largest(-1)(arrays).tolist() == [[2, 1, 0], [0, 1, -1], [0, -1, -1]]


def test_plain_tensors_beside_those_of_monai_are_an_error_in_either_order(monkeypatch):
    module = SimpleNamespace(MetaObj=MetaTensor, collate_meta_tensor=torch.stack)
    monkeypatch.setitem(sys.modules, "monai.data.utils", module)
    plain, meta = {"x": torch.ones(2)}, {"x": torch.ones(2).as_subclass(MetaTensor)}
    for samples in ([plain, meta], [meta, plain]):
        with pytest.raises(ValueError, match=r"agree in 'x': .* holds .*Tensor of"):
            collate(samples)


def test_masked_entries_of_arrays_are_not_taken_for_values():
    with pytest.raises(TypeError, match=r"arrays, got a MaskedArray: a tensor has no mask\. Fill the masked entries"):
        pad_to_largest()([np.ma.array([1.0, -9999.0], mask=[False, True]), np.ones(3)])
