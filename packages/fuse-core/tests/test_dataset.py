import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from fuse_core import DatasetWrapSeqToDict, NDict


def test_samples_get_key_names_and_ids():
    tuples = TensorDataset(torch.arange(6).view(3, 2), torch.tensor([5, 6, 7]))
    dataset = DatasetWrapSeqToDict(tuples, ["data.image", "data.label"], name="train")
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 3
    assert type(dataset[1]) is NDict
    assert dataset[1]["data.image"].tolist() == [2, 3]
    assert dataset[1]["data.label"] == 6
    assert dataset[1]["data.sample_id"] == ("train", 1)


def test_a_negative_index_has_the_id_of_the_sample_it_means():
    assert DatasetWrapSeqToDict([(1,), (2,)], ["x"], name="a")[-1] == {"x": 2, "data.sample_id": ("a", 1)}


def test_ids_can_be_given():
    dataset = DatasetWrapSeqToDict([(1,), (2,)], ["x"], sample_ids=["patient-7", "patient-9"])
    assert [dataset[i]["data.sample_id"] for i in range(2)] == ["patient-7", "patient-9"]
    assert dataset[-1]["data.sample_id"] == "patient-9"


def test_a_name_in_place_of_the_dataset_is_told_the_order():
    with pytest.raises(TypeError, match=r"write DatasetWrapSeqToDict\(dataset, sample_keys, name='train'\)"):
        DatasetWrapSeqToDict("train", [(1, 2)], ["a", "b"])


def test_one_id_per_sample():
    with pytest.raises(ValueError, match="dataset has 2 samples, sample_ids has 1"):
        DatasetWrapSeqToDict([(1,), (2,)], ["x"], sample_ids=["only"])


def test_a_key_cannot_be_given_twice():
    with pytest.raises(ValueError, match=r"a different key for each element, got \['x', 'x'\]"):
        DatasetWrapSeqToDict([(1, 2)], ["x", "x"])


def test_indices_from_samplers_become_plain_numbers():
    sample_id = DatasetWrapSeqToDict([(1,), (2,)], ["x"])[torch.tensor(1)]["data.sample_id"]
    assert type(sample_id[1]) is int


def test_a_single_key_takes_the_whole_sample():
    assert DatasetWrapSeqToDict([[1, 2]], "data.pair")[0]["data.pair"] == [1, 2]


@pytest.mark.parametrize(("samples", "got"), [([(1, 2, 3)], "3 elements"), ([torch.zeros(2)], "a Tensor")])
def test_samples_must_have_as_many_elements_as_keys(samples, got):
    with pytest.raises(ValueError, match=rf"2 sample_keys \('x', 'y'\), but sample \('dataset', 0\) is {got}"):
        DatasetWrapSeqToDict(samples, ["x", "y"])[0]


def test_it_can_be_iterated_over():
    assert [sample["x"] for sample in DatasetWrapSeqToDict([(1,), (2,)], ["x"])] == [1, 2]


def test_one_key_in_a_list_takes_single_values():
    assert DatasetWrapSeqToDict([5, 6], ["x"])[1]["x"] == 6
