import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_core import NDict, collate, number_of_samples, uncollate

segments = st.text("abc", min_size=1, max_size=2)
keys = st.lists(segments, min_size=1, max_size=3).map(".".join)
shapes = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def sample_lists(draw):
    """Samples with equal keys; each key holds tensors of one shape, or values that are listed."""
    count = draw(st.integers(1, 4))
    samples = [NDict({"data.sample_id": ("set", i)}) for i in range(count)]
    for key in draw(st.lists(keys, unique=True, max_size=5)):
        shape = draw(st.none() | shapes)
        for i, sample in enumerate(samples):
            sample[key] = draw(st.text(max_size=3) | st.none()) if shape is None else torch.full(shape, float(i))
    return samples


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key])
            assert value.dtype == other[key].dtype
        else:
            assert value == other[key]


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first tensor made takes a second
@given(sample_lists())
def test_it_inverts_collate(samples):
    restored = uncollate(collate(samples))
    assert len(restored) == len(samples)
    for sample, back in zip(samples, restored, strict=True):
        assert type(back) is NDict
        assert_equal(back, sample)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first tensor made takes a second
@given(sample_lists())
def test_collating_again_gives_the_same_batch(samples):
    batch = collate(samples)
    assert_equal(collate(uncollate(batch)), batch)


def test_what_belongs_to_the_batch_is_given_to_each_sample():
    batch = {"data": {"sample_id": ["a", "b"]}, "losses.total_loss": torch.tensor(0.5), "global_step": 3, "n": "text"}
    for sample in uncollate(batch):
        assert (sample["global_step"], sample["n"], sample["losses.total_loss"].item()) == (3, "text", 0.5)


def test_without_sample_ids_any_value_tells_the_number():
    assert [sample["x"].item() for sample in uncollate({"x": torch.tensor([1, 2])})] == [1, 2]


def test_values_of_other_lengths_are_an_error():
    with pytest.raises(
        ValueError, match=r"'data\.sample_id' holds 2, 'model\.weights' holds 3\. Remove 'model\.weights'"
    ):
        uncollate({"model.weights": torch.zeros(3), "data.sample_id": ["a", "b"]})


def test_a_batch_that_tells_no_number_is_an_error():
    with pytest.raises(ValueError, match="takes the number of samples from a list or a tensor of rank 1 or more"):
        uncollate({"x": 1})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_split_and_indexed_by_samples(layout):
    images = [torch.ones(1), torch.ones(2), torch.zeros(3)]
    batch = NDict({"data.image": torch.nested.nested_tensor(images, layout=layout), "data.label": torch.arange(3)})
    assert number_of_samples(batch) == 3
    for samples, expected in ((uncollate(batch), images), (uncollate(batch.indices([2, 0])), [images[2], images[0]])):
        assert all(torch.equal(one["data.image"], image) for one, image in zip(samples, expected, strict=True))
    assert "data.image  " in batch.describe()
