import builtins

import numpy as np
import pytest
import torch

from fuse_lightning import convert_predictions_to_dataframe


def test_numbers_vectors_and_lists_become_columns():
    batches = [
        {"data.sample_id": [("test", i)], "vector": torch.tensor([[i, i + 0.5]]), "number": torch.tensor([i])}
        for i in range(3)
    ]
    table = convert_predictions_to_dataframe(batches)
    assert list(table.columns) == ["data.sample_id", "vector.0", "vector.1", "number"]
    assert table["vector.1"].tolist() == [0.5, 1.5, 2.5]
    assert table["number"].tolist() == [0, 1, 2]
    assert table["data.sample_id"].tolist() == [("test", 0), ("test", 1), ("test", 2)]


def test_numbers_keep_their_precision():
    table = convert_predictions_to_dataframe([{"x": torch.tensor([123456789.0], dtype=torch.float64)}])
    assert table["x"].tolist() == [123456789.0]


def test_several_loaders_are_put_one_after_the_other():
    batches = [{"x": torch.tensor([i])} for i in range(3)]
    assert convert_predictions_to_dataframe([batches[:2], batches[2:]])["x"].tolist() == [0, 1, 2]


def test_no_predictions_are_an_error():
    with pytest.raises(ValueError, match=r"got no predictions\. Was the loader empty"):
        convert_predictions_to_dataframe([])


def test_half_precision_is_widened():
    table = convert_predictions_to_dataframe([{"x": torch.tensor([0.5], dtype=torch.bfloat16)}])
    assert table["x"].tolist() == [0.5]


def test_arrays_are_taken_as_tensors_are_and_nested_mappings_as_their_keys():
    half = np.array([[0.5, 0.25]], np.float16)
    table = convert_predictions_to_dataframe([{"model": {"y": half, "n": np.array([3])}, "id": np.array(["a"])}])
    assert table.to_dict("list") == {"model.y.0": [0.5], "model.y.1": [0.25], "model.n": [3], "id": ["a"]}
    assert table["model.y.0"].dtype == np.float32


def test_of_a_list_of_tensors_the_rows_hold_numbers_or_arrays():
    boxes = [torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True), torch.zeros(0, 4)]
    batch = {"data.sample_id": [torch.tensor(7), torch.tensor(8)], "boxes": boxes}
    table = convert_predictions_to_dataframe([batch])
    assert table["data.sample_id"].tolist() == [7, 8]
    assert [(type(box), box.dtype, box.shape) for box in table["boxes"]] == [
        (np.ndarray, np.float32, (2, 4)),
        (np.ndarray, np.float32, (0, 4)),
    ]


def test_batches_may_lack_columns_and_values():
    table = convert_predictions_to_dataframe([{"x": torch.tensor([1]), "y": [2]}, {"x": [None]}])
    assert table["x"].isna().tolist() == [False, True]
    assert table["y"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("value", "kind"), [("text", "str"), (0.5, "float"), (None, "NoneType")])
def test_one_value_for_a_whole_batch_is_rejected(value, kind):
    with pytest.raises(TypeError, match=rf"with an entry per sample; 'x' is a {kind}\. Leave it out, or repeat it"):
        convert_predictions_to_dataframe([{"x": value}])


def test_values_of_different_lengths_are_named():
    with pytest.raises(ValueError, match=r"an entry for each sample of the batch, but 'x' has 2, 'ids' has 1\."):
        convert_predictions_to_dataframe([{"x": torch.zeros(2), "ids": ["a"]}])


def test_maps_are_rejected():
    with pytest.raises(ValueError, match=r"'map' has shape \(2, 3, 4\)\. Leave it out of prediction_keys"):
        convert_predictions_to_dataframe([{"map": torch.zeros(2, 3, 4)}])


def test_cells_hold_the_array_of_each_sample_whatever_its_rank():
    maps = torch.arange(12.0).reshape(2, 2, 3)
    batches = [
        {"data.sample_id": [f"{i}a", f"{i}b"], "seg": maps + i, "cls": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}
        | {"half": torch.ones(2, 1, dtype=torch.bfloat16), "label": torch.tensor([1, 0])}
        for i in range(2)
    ]
    table = convert_predictions_to_dataframe(batches, cells=True, id_column="id")
    assert list(table.columns) == ["id", "seg", "cls", "half", "label"]
    assert table["id"].tolist() == ["0a", "0b", "1a", "1b"]
    assert table["seg"][3].tolist() == (maps[1] + 1).tolist()
    assert table["cls"][0].tolist() == [0.25, 0.75]
    assert table["half"][0].dtype == "float32"
    assert table["label"].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("predictions", [{"data.sample_id": ["a"], "id": [1]}, {"x": [1]}])
def test_sample_ids_that_cannot_be_renamed(predictions):
    with pytest.raises(ValueError, match=r"id_column='id'\) renames 'data\.sample_id', but the predictions are under"):
        convert_predictions_to_dataframe([predictions], id_column="id")


def test_without_pandas_it_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        convert_predictions_to_dataframe([])
