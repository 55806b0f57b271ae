import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from fuse_core import Collate, NDict, collate, number_of_samples, pad_to_largest, uncollate


def sample(i, **more):
    return NDict({"data.sample_id": f"s{i}", "data.image": torch.full((2, 2), float(i)), **more})


def test_tensors_arrays_and_numbers_are_batched_and_the_rest_is_listed():
    batch = collate(
        [
            sample(
                i, array=np.full(2, i), integer=i, real=i / 2, truth=i > 0, scalar=np.float32(i), text="t", pair=(i, i)
            )
            for i in range(2)
        ]
    )
    assert type(batch) is NDict
    assert batch["data.image"].tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert torch.equal(batch["array"], torch.tensor([[0, 0], [1, 1]]))
    for key in ("array", "integer", "real", "truth", "scalar"):
        assert isinstance(batch[key], torch.Tensor)
    assert (batch["integer"].dtype, batch["truth"].dtype) == (torch.int64, torch.bool)
    assert (batch["real"].dtype, batch["scalar"].dtype) == (torch.float64, torch.float32)
    assert batch["text"] == ["t", "t"]
    assert batch["pair"] == [(0, 0), (1, 1)]
    assert batch["data.sample_id"] == ["s0", "s1"]


def test_it_agrees_with_pytorch_on_what_both_batch():
    samples = [{"x": torch.rand(3), "a": np.random.rand(2), "n": i, "f": i * 0.5} for i in range(4)]
    ours, theirs = collate(samples), default_collate(samples)
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value)
        assert ours[key].dtype == value.dtype


def test_lists_come_last_so_that_compiled_models_do_not_compile_anew():
    assert list(collate([{"data.sample_id": 0, "data.text": "t", "data.x": 1}])) == [
        "data.x",
        "data.sample_id",
        "data.text",
    ]


@pytest.mark.parametrize("number", [3, 2.5, torch.tensor(3)])
def test_sample_ids_are_always_a_list(number):
    assert collate([{"data.sample_id": number}])["data.sample_id"] == [number]


def test_samples_may_be_any_mapping_nested_or_dotted():
    batch = collate([{"data": {"x": 1}}, NDict({"data.x": 2}), NDict({"outer.data.x": 3})["outer"]])
    assert batch["data.x"].tolist() == [1, 2, 3]


def test_arrays_of_text_are_listed():
    assert collate([{"x": np.array(["a"])}, {"x": np.array(["b"])}])["x"] == [np.array(["a"]), np.array(["b"])]


def test_integers_and_reals_mix_whatever_comes_first():
    for values in ([1, 2.5], [2.5, 1]):
        assert collate([{"x": value} for value in values])["x"].dtype == torch.float64


def test_values_that_are_none_for_some_samples_are_listed():
    assert collate([{"x": None}, {"x": 1}])["x"] == [None, 1]


def test_different_shapes_name_the_samples_the_key_and_both_shapes():
    samples = [sample(0), sample(1), sample(2)]
    samples[2]["data.image"] = torch.zeros(2, 3)
    message = (
        r"agree in 'data\.image': sample 's0' holds Tensor of shape \(2, 2\) and dtype torch\.float32, "
        r"sample 's2' holds Tensor of shape \(2, 3\)"
    )
    with pytest.raises(ValueError, match=message):
        collate(samples)


def test_different_dtypes_are_an_error_not_a_promotion():
    with pytest.raises(ValueError, match=r"agree in 'x': the sample at position 0 holds .*float32, .*float64"):
        collate([{"x": torch.zeros(1)}, {"x": torch.zeros(1, dtype=torch.float64)}])


def test_different_types_are_an_error():
    with pytest.raises(ValueError, match=r"agree in 'x': .*position 0 holds int, .*position 1 holds Tensor"):
        collate([{"x": 1}, {"x": torch.tensor(1)}])


def test_different_shapes_of_arrays_are_an_error():
    with pytest.raises(ValueError, match=r"ndarray of shape \(1,\) .* ndarray of shape \(2,\)"):
        collate([{"x": np.zeros(1)}, {"x": np.zeros(2)}])


def test_a_missing_key_names_the_samples_and_the_key():
    with pytest.raises(ValueError, match=r"sample 's1' lacks 'data\.label', which sample 's0' holds\. Add it, skip it"):
        collate([sample(0, **{"data.label": 1}), sample(1)])
    with pytest.raises(ValueError, match=r"sample 's0' lacks 'data\.label', which sample 's1' holds"):
        collate([sample(0), sample(1, **{"data.label": 1})])


def test_missing_keys_can_be_filled_with_none():
    batch = Collate(missing="none")([sample(0), sample(1, label=1)])
    assert batch["label"] == [None, 1]
    assert batch["data.image"].shape == (2, 2, 2)


def test_missing_keys_that_are_not_taken_do_not_matter():
    samples = [sample(0), sample(1, label=1)]
    assert "label" not in Collate(skip_keys=["label"])(samples)
    assert "label" not in Collate(keep_keys=["data"])(samples)


def test_a_leaf_of_one_sample_may_be_a_branch_of_another():
    batch = Collate(missing="none")([{"a": 1}, {"a": {"b": 2}}])
    assert batch["a"] == [1, None]
    assert batch["a.b"] == [None, 2]


def test_keys_are_kept_and_skipped_by_name_or_branch():
    samples = [NDict({"data": {"sample_id": 0, "x": 1, "y": 2}, "model.z": 3, "model.w": 4})]
    assert set(Collate(keep_keys=["model", "data.x"])(samples)) == {"data.sample_id", "data.x", "model.z", "model.w"}
    assert set(Collate(skip_keys=["model"])(samples)) == {"data.sample_id", "data.x", "data.y"}
    assert set(Collate(keep_keys=["data"], skip_keys=["data.x"])(samples)) == {"data.sample_id", "data.y"}


@pytest.mark.parametrize("option", [{"keep_keys": ["data.imgae"]}, {"per_key": {"data.imgae": tuple}}])
def test_options_that_name_no_key_of_the_samples_are_an_error(option):
    with pytest.raises(
        ValueError, match=rf"Collate\({next(iter(option))}=\) names 'data\.imgae', which the samples do not"
    ):
        Collate(**option)([sample(0)])


def test_a_failing_per_key_function_names_key_and_samples():
    padded = Collate(per_key={"x": pad_to_largest()})
    message = r"per_key function for 'x' failed on sample 's0', sample 's1': .*rank 1 .*rank 2"
    with pytest.raises(ValueError, match=message):
        padded([sample(0, x=torch.zeros(1)), sample(1, x=torch.zeros(1, 1))])


def test_samples_must_be_mappings():
    with pytest.raises(TypeError, match=r"samples that are mappings .*, got a tuple\. Wrap a dataset of tuples"):
        collate([(1, 2)])


def test_per_key_and_post_functions():
    one = Collate(per_key={"x": tuple}, post=lambda batch: batch | {"n": len(batch["x"])})
    assert one([{"x": 1}, {"x": 2}]) == {"x": (1, 2), "n": 2}


def test_bad_options_fail_at_construction():
    with pytest.raises(ValueError, match="'raise' or 'none', got 'skip'"):
        Collate(missing="skip")
    with pytest.raises(
        TypeError, match=r"keep_keys=\) takes a sequence of keys, got the string 'data'. Use \['data'\]"
    ):
        Collate(keep_keys="data")


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])


def test_samples_are_not_changed():
    samples = [{"data": {"x": 1}}]
    collate(samples)["data.new"] = 1
    assert samples == [{"data": {"x": 1}}]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_listed(layout):
    nested = torch.nested.nested_tensor([torch.ones(1, 2), torch.ones(2, 2)], layout=layout)
    batch = collate([{"x": nested}, {"x": nested}])
    assert all(one is nested for one in batch["x"])
    assert uncollate(batch)[1]["x"] is nested


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_and_dense_tensors_disagree_by_name():
    nested = torch.nested.nested_tensor([torch.ones(1, 2), torch.ones(2, 2)])
    with pytest.raises(
        ValueError, match=r"agree in 'x': sample 's0' holds Tensor .*, sample 's1' holds a nested Tensor"
    ):
        collate([sample(0, x=torch.zeros(1)), sample(1, x=nested)])


def test_times_are_listed_and_complex_numbers_stacked():
    values = {"span": np.timedelta64(3, "D"), "day": np.datetime64("2020-01-01"), "c": 1 + 2j, "c64": np.complex64(2j)}
    batch = collate([values, values])
    assert batch["span"] == [values["span"]] * 2
    assert batch["day"] == [values["day"]] * 2
    assert torch.equal(batch["c"], torch.tensor([1 + 2j] * 2, dtype=torch.complex128))
    assert torch.equal(batch["c64"], torch.tensor([2j] * 2))


def test_an_error_in_every_sample_names_the_key_and_a_sample():
    with pytest.raises(
        ValueError, match=r"could not batch 'x' \(Tensor of shape .* in every sample, such as sample 's0'\)"
    ):
        collate([sample(i, x=torch.ones(1).to_sparse()) for i in range(2)])
    with pytest.raises(ValueError, match=r"could not batch 'x' \(int in every sample, such as sample 's0'\)"):
        collate([sample(i, x=2**70) for i in range(2)])


def test_a_per_key_function_of_a_branch_applies_to_its_leaves():
    one = Collate(per_key={"data": tuple, "data.x": list})
    batch = one([{"data": {"sample_id": i, "x": i, "y": i, "z": {"w": i}}, "n": i} for i in range(2)])
    assert batch["n"].tolist() == [0, 1]
    assert (batch["data.x"], batch["data.y"], batch["data.z.w"]) == ([0, 1], (0, 1), (0, 1))
    assert batch["data.sample_id"] == [0, 1]


def test_any_error_of_a_per_key_function_names_the_key():
    def fails(values):
        return values[0].absent

    with pytest.raises(ValueError, match=r"per_key function for 'data\.x' failed on .* no attribute 'absent'"):
        Collate(per_key={"data": fails})([{"data.x": 1}])


def test_a_per_key_function_may_return_a_mapping():
    batch = Collate(per_key={"x": lambda values: {"values": values, "n": len(values)}})([{"x": 1}, {"x": 2}])
    assert dict(batch) == {"x.values": [1, 2], "x.n": 2}


def test_samples_nested_in_different_ways_hold_the_same_keys():
    samples = [{"data": {"x": 1, "y": 2}}, {"data.x": 3, "data": {"y": 4}}, NDict({"data.x": 5, "data.y": 6})]
    batch = collate(samples)
    assert (batch["data.x"].tolist(), batch["data.y"].tolist()) == ([1, 3, 5], [2, 4, 6])


def test_no_key_to_keep_is_refused():
    with pytest.raises(ValueError, match=r"Collate\(keep_keys=\) got no key. Leave it out to keep all keys."):
        Collate(keep_keys=[])


@pytest.mark.parametrize("values", [[2**63, 1], [2**70, 1], [np.uint64(2**63), -1]])
def test_integers_that_no_dtype_holds_are_not_rounded(values):
    with pytest.raises(ValueError, match=r"'x'"):
        collate([{"x": value} for value in values])


def test_per_key_takes_nested_keys_and_functions_only():
    batch = Collate(per_key={"data": {"x": tuple}})([{"data": {"x": i, "y": i}} for i in range(2)])
    assert batch["data.x"] == (0, 1)
    with pytest.raises(TypeError, match=r"Collate\(per_key=\) takes functions, got 'list' for 'data\.x'"):
        Collate(per_key={"data.x": "list"})
    with pytest.raises(TypeError, match="NDict keys are strings, got 3"):
        Collate(skip_keys=[3])


def test_a_post_function_that_returns_nothing_is_an_error():
    with pytest.raises(TypeError, match=r"post=\) takes a function that returns the batch .*, but it returned None"):
        Collate(post=lambda batch: batch.update(n=1))([{"x": 1}])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_and_dense_tensors_disagree_in_either_order():
    nested = torch.nested.nested_tensor([torch.ones(1, 2), torch.ones(2, 2)])
    with pytest.raises(ValueError, match=r"sample 's0' holds a nested Tensor .*, sample 's1' holds Tensor"):
        collate([sample(0, x=nested), sample(1, x=torch.zeros(1))])


def test_the_number_of_samples():
    assert number_of_samples({"x": torch.zeros(4, 2), "data": 1, "data.sample_id": ["p", "q", "r"]}) == 3
    assert number_of_samples({"scalar": 1, "x": torch.zeros(4, 2)}) == 4
    assert number_of_samples({"scalar": 1, "x": torch.zeros(())}) is None


@pytest.mark.parametrize(
    "values",
    [
        (np.array(["lung"]), np.array(["a longer name"])),
        (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-01T10"], "M8[h]")),
        (np.array([None], object), np.array(["text"])),
    ],
)
def test_arrays_that_no_tensor_holds_become_a_list_whatever_their_dtypes(values):
    listed = collate([{"x": value} for value in values])["x"]
    assert all(one is value for one, value in zip(listed, values, strict=True))
    with pytest.raises(ValueError, match=r"agree in 'x': .* holds ndarray .* <U4, .* holds ndarray .* float64"):
        collate([{"x": np.array(["lung"])}, {"x": np.array([1.0])}])


def test_masked_entries_of_arrays_are_not_taken_for_values():
    masked = np.ma.array([1.0, -9999.0], mask=[False, True])
    with pytest.raises(ValueError, match=r"could not batch 'x' \(MaskedArray .*\): a tensor has no mask\. Fill"):
        collate([{"x": masked}, {"x": masked}])
    assert torch.equal(
        collate([{"x": np.ma.array([1, 2])}, {"x": masked.filled(0).astype(int)}])["x"][0], torch.tensor([1, 2])
    )
