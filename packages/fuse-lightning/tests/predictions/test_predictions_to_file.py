import csv
import errno
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import IterableDataset

from fuse_core import collate
from fuse_lightning import PredictionsToFile, convert_predictions_to_dataframe
from fuse_lightning.predictions.rows_on_disk import RowFile, merge_rows


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def predict(make_module, make_trainer, tmp_path):
    """Predicts to a file and returns what the module gives."""

    def run(loaders, name="predictions.csv", module=None):
        trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / name)])
        return trainer.predict(module or make_module(prediction_keys=["model.y", "data.x"]), loaders)

    return run


def test_a_csv_file_equals_the_table_of_the_predictions(predict, make_loader, tmp_path):
    table = convert_predictions_to_dataframe(predict(make_loader(10)))
    assert (tmp_path / "predictions.csv").read_text() == table.to_csv(index=False)
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv"}


def test_a_parquet_file_equals_the_table_of_the_predictions(predict, make_loader, tmp_path):
    table = convert_predictions_to_dataframe(predict(make_loader(10), "predictions.parquet"))
    written = pq.read_table(tmp_path / "predictions.parquet")
    assert [str(field.type) for field in written.schema] == ["int64", "float", "float", "float", "float"]
    assert written.to_pandas().equals(table)


def test_a_loader_that_shuffles_is_put_in_the_order_of_the_dataset(predict, make_loader, tmp_path):
    predict(make_loader(10, shuffle=True))
    assert [row[0] for row in read(tmp_path / "predictions.csv")[1:]] == [str(i) for i in range(10)]


@pytest.mark.parametrize("named", [False, True])
def test_rows_of_several_loaders_say_which(predict, make_loader, tmp_path, named):
    loaders = [make_loader(2), make_loader(3)]
    predict(dict(zip(("a", "b"), loaders, strict=True)) if named else loaders)
    header, *rows = read(tmp_path / "predictions.csv")
    assert header[:2] == ["loader", "data.sample_id"]
    assert [row[0] for row in rows] == (list("aabbb") if named else list("00111"))


def test_loaders_within_a_name_are_counted(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(prediction_keys=[])
    module.predict_step = lambda batch, batch_idx, dataloader_idx=0: {"x": batch["data.sample_id"]}
    trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")])
    trainer.predict(module, {"a": [make_loader(1), make_loader(2, shuffle=True)], "b": make_loader(1)})
    assert read(tmp_path / "p.csv")[1:] == [["0", "0"], ["1", "0"], ["1", "1"], ["2", "0"]]


def test_a_dataset_without_positions_keeps_its_order(predict, make_loader, tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(reversed(make_loader(6).dataset))

    with pytest.warns(UserWarning, match="infer the batch indices"):
        predict(torch.utils.data.DataLoader(Stream(), batch_size=4, collate_fn=collate))
    assert [row[0] for row in read(tmp_path / "predictions.csv")[1:]] == list("543210")


def test_an_earlier_file_stays_until_the_new_one_is_whole(predict, make_loader, make_module, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("earlier")

    def fail(batch_dict):
        if 4 in batch_dict["data.sample_id"]:
            raise RuntimeError("broken")

    module = make_module(prediction_keys=["model.y"])
    module.model.register_forward_pre_hook(lambda _, arguments: fail(*arguments))
    with pytest.raises(RuntimeError, match="broken"):
        predict(make_loader(8), module=module)
    assert path.read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv"}


@pytest.fixture
def predict_batches(make_module, make_trainer, make_loader, tmp_path):
    """Predicts what it is given for each batch of four samples."""

    def run(*batches, name="predictions.csv", **options):
        module = make_module(prediction_keys=[])
        module.predict_step = lambda batch, batch_idx, dataloader_idx=0: batches[batch_idx]
        trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / name)], **options)
        return trainer.predict(module, make_loader(4 * len(batches)))

    return run


def test_types_that_change_after_the_first_batch_lose_nothing(predict_batches, tmp_path):
    boxes = [torch.arange(2 * count).view(count, 2) for count in (2, 0, 1, 3)]
    first = {"score": torch.tensor([1, 2, 3, 4]), "label": [0, 1, 0, 1], "boxes": boxes}
    second = {"score": torch.full((4,), 0.5), "label": [None, 1, "?", 0], "boxes": [None, *boxes[:3]]}
    predict_batches(first, second, name="predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table["score"].to_pylist() == [1, 2, 3, 4, 0.5, 0.5, 0.5, 0.5]
    assert table["label"].to_pylist() == ["0", "1", "0", "1", None, "1", "?", "0"]
    lists = [box.tolist() for box in boxes]
    assert table["boxes"].to_pylist() == [*lists, None, *lists[:3]]


def test_a_file_that_cannot_be_written_leaves_the_earlier_one_and_the_predictions(
    predict_batches, tmp_path, monkeypatch
):
    path = tmp_path / "predictions.csv"
    path.write_text("earlier")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fuse_lightning.predictions.predictions_to_file._write_csv", full)
    with pytest.raises(OSError, match="No space left") as error:
        predict_batches({"x": [4, 5, 6, 7]})
    assert path.read_text() == "earlier"
    (kept,) = (other for other in tmp_path.iterdir() if other != path)
    assert f"predictions.csv was not written. The predictions are kept in {kept}, until" in error.value.__notes__[-1]
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [[0, i, 4 + i] for i in range(4)]
    monkeypatch.undo()
    predict_batches({"x": [4, 5, 6, 7]})
    assert [other.name for other in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_disk_that_fills_up_while_predicting_leaves_the_earlier_file_alone(predict_batches, tmp_path, small_files):
    path = tmp_path / "predictions.csv"
    path.write_text("earlier")
    with pytest.raises(OSError, match="File too large"):
        predict_batches({"x": ["a"] * 4}, {"x": ["b" * 100_000] * 4})
    assert path.read_text() == "earlier"
    assert [other.name for other in tmp_path.iterdir()] == ["predictions.csv"]


def test_only_the_batches_that_are_predicted_are_written(predict_batches, tmp_path):
    predict_batches({"x": [0, 1, 2, 3]}, {"x": [4, 5, 6, 7]}, limit_predict_batches=1)
    assert read(tmp_path / "predictions.csv") == [["x"], ["0"], ["1"], ["2"], ["3"]]


def test_a_trial_run_leaves_the_earlier_file_alone(predict_batches, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("earlier")
    predict_batches({"x": [0, 1, 2, 3]}, fast_dev_run=True)
    assert path.read_text() == "earlier"
    assert [other.name for other in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_folder_in_the_file_s_place_is_told_before_predicting(predict_batches, tmp_path):
    (tmp_path / "predictions.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"is the file to write, but .+predictions\.csv is a folder"):
        predict_batches({"x": [0, 1, 2, 3]})


def test_a_key_called_loader_does_not_go_with_several_loaders(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(prediction_keys=[])
    module.predict_step = lambda batch, batch_idx, dataloader_idx=0: {"loader": batch["data.sample_id"]}
    trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")])
    with pytest.raises(ValueError, match="writes a column 'loader', but predict_step returns that key too"):
        trainer.predict(module, [make_loader(2), make_loader(2)])


def test_what_was_written_stays_out_of_memory(make_module, make_trainer, make_loader, tmp_path, monkeypatch):
    lengths = []
    write = RowFile.write

    def write_and_look(self, *arguments):
        write(self, *arguments)
        self._file.flush()
        lengths.append(self.path.stat().st_size)

    monkeypatch.setattr(RowFile, "write", write_and_look)
    trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")])
    module = make_module(prediction_keys=["model.y"])
    assert trainer.predict(module, make_loader(12), return_predictions=False) is None
    assert 0 < lengths[0] < lengths[1] < lengths[2]


def collected(path, *batches, first=0, step=1):
    """The rows that batches of columns make on one process, whose samples are every `step`-th."""
    rows = RowFile(path)
    for columns in batches:
        count = max(map(len, columns.values()))
        rows.write(0, range(first, first + count * step, step), columns)
        first += count * step
    return rows.close()


def test_rows_of_processes_are_merged_and_repeated_ones_dropped(tmp_path):
    parts = []
    for rank, positions in enumerate(([0, 2, 4], [1, 3, 0])):  # the last one is padding
        rows = RowFile(tmp_path / f"rank{rank}")
        rows.write(0, positions[:2], {"id": positions[:2], "text": ["a", "b"]})
        rows.write(0, positions[2:], {"id": positions[2:], "text": ["c"]})
        parts.append(rows.close())
    columns, merged = merge_rows(parts, drop_repeated=True)
    assert columns == {"id": "int64", "text": "text"}
    assert [row[1:] for row in merged] == [[0, 0, "a"], [1, 1, "a"], [2, 2, "b"], [3, 3, "b"], [4, 4, "c"]]


def write_and_read(folder, *processes):
    """A table of what each process has collected, by way of a Parquet file."""
    parts = [
        collected(folder / f"rank{rank}", *batches, first=rank, step=len(processes))
        for rank, batches in enumerate(processes)
    ]
    writer = PredictionsToFile(folder / "p.parquet")
    writer._write(*merge_rows(parts, drop_repeated=len(parts) > 1), [])
    return pq.read_table(writer.path)


BIG = 2**60 + 1  # which no float64 is


@pytest.mark.parametrize(
    ("early", "late", "kind", "values"),
    [
        ([1, 2], [0.5], "double", [1.0, 2.0, 0.5]),
        ([1, 2], [None], "int64", [1, 2, None]),
        ([None], [0.5], "double", [None, 0.5]),
        ([None], [None], "null", [None, None]),
        ([True], [2], "int64", [1, 2]),
        ([True], [None, False], "bool", [True, None, False]),
        (["a"], ["long" * 10_000], "string", ["a", "long" * 10_000]),
        ([1], ["one"], "string", ["1", "one"]),
        ([0.5, None], ["half"], "string", ["0.5", None, "half"]),
        ([BIG], [None], "int64", [BIG, None]),
        ([BIG], [0.5], "string", [str(BIG), "0.5"]),
        ([1], [2**70], "string", ["1", str(2**70)]),
        ([[]], [[1], [0.5, None]], "list<element: double>", [[], [1.0], [0.5, None]]),
        ([[1, 2], None], [[3]], "list<element: int64>", [[1, 2], None, [3]]),
        ([["a"]], [[1]], "list<element: string>", [["a"], ["1"]]),
        ([[[1]], []], [[[], [0.5]]], "list<element: list<element: double>>", [[[1.0]], [], [[], [0.5]]]),
        ([[1]], [2], "string", ["[1]", "2"]),
        ([("test", 1)], [("test", 2)], "string", ["('test', 1)", "('test', 2)"]),
        ([Path("a.png")], [b"b"], "string", ["a.png", "b'b'"]),
        ([1j], [{"a": 1}], "string", ["1j", "{'a': 1}"]),
        (["caf\udce9"], ["b"], "string", ["caf\\udce9", "b"]),  # a file name that is no UTF-8
        ([np.int32(1)], [np.float64(0.5)], "double", [1.0, 0.5]),
        ([np.str_("a")], [None], "string", ["a", None]),
        (np.array([1, 2]), [None], "int64", [1, 2, None]),
        (np.array([1, 2], np.int32), np.array([0.5], np.float32), "double", [1.0, 2.0, 0.5]),
        (np.array([0.5], np.float32), [None], "float", [0.5, None]),
        (np.array([True]), np.array([2], np.uint8), "uint8", [1, 2]),
        (np.array([BIG]), np.array([0.5]), "string", [str(BIG), "0.5"]),
        (np.array([2**63], np.uint64), np.array([1]), "string", [str(2**63), "1"]),
        ([np.array([1, 2], np.float32)], [np.zeros(0, np.float32)], "list<element: float>", [[1.0, 2.0], []]),
        ([np.zeros((2, 1))], [np.zeros((0, 1))], "list<element: list<element: double>>", [[[0.0], [0.0]], []]),
    ],
)
def test_a_column_has_the_smallest_type_that_holds_all_batches(tmp_path, early, late, kind, values):
    table = write_and_read(tmp_path, [{"x": early}, {"x": late}])
    assert str(table.schema.field("x").type) == kind
    assert table["x"].to_pylist() == values


def test_types_of_columns_hold_the_values_of_all_processes(tmp_path):
    batches = [{"x": [1], "y": ["a"]}], [{"y": [None], "x": [0.5], "z": [[]]}]
    table = write_and_read(tmp_path, *batches)
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "x double",
        "y string",
        "z list<element: null>",
    ]
    assert table.to_pylist() == [{"x": 1.0, "y": "a", "z": None}, {"x": 0.5, "y": None, "z": []}]


def test_columns_that_a_batch_lacks_are_empty_there(tmp_path):
    batches = [{"a": [1], "b": [2]}, {"c": ["x"], "a": [3]}, {"b": [4]}]
    assert write_and_read(tmp_path, batches).to_pylist() == [
        {"a": 1, "b": 2, "c": None},
        {"a": 3, "b": None, "c": "x"},
        {"a": None, "b": 4, "c": None},
    ]


def test_numbers_keep_their_value_and_text_its_line_breaks(tmp_path):
    values = {
        "tenth": torch.tensor([0.1, torch.nan, 0.2]).numpy(),
        "exact": torch.tensor([0.1, torch.inf, 0.2], dtype=torch.float64).numpy(),
        "text": ["a\nb", ("test", 1), None],
        "more": ["a\rb", "c\r\nd", "\r"],
    }
    writer = PredictionsToFile(tmp_path / "t.csv")
    part = collected(tmp_path / "rows", values, {"tenth": [None], "exact": [1], "text": [[1, "a"]], "more": [""]})
    writer._write(*merge_rows([part], drop_repeated=False), [])
    assert read(tmp_path / "t.csv") == [
        ["tenth", "exact", "text", "more"],
        ["0.1", "0.1", "a\nb", "a\rb"],
        ["nan", "inf", "('test', 1)", "c\r\nd"],
        ["0.2", "0.2", "", "\r"],
        ["", "1", "[1, 'a']", ""],
    ]


def test_batches_must_have_a_value_a_sample(tmp_path):
    rows = RowFile(tmp_path / "rows")
    with pytest.raises(ValueError, match="A batch of 2 samples gives 1 values of 'a'"):
        rows.write(0, [1, 2], {"a": [1]})
    rows.remove()
    assert not rows.path.exists()


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no predictions to write\. Was the loader empty"):
        merge_rows([RowFile(tmp_path / "rows").close()], drop_repeated=False)


def test_predictions_must_be_a_mapping(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(prediction_keys=["model.y"])
    module.predict_step = lambda batch, batch_idx: torch.zeros(4)
    with pytest.raises(TypeError, match=r"returns a mapping of keys to values.*got a Tensor"):
        make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")]).predict(module, make_loader(4))


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet, got 'predictions\.txt'"):
        PredictionsToFile("predictions.txt")


def test_parquet_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "fuse-lightning\[parquet\]"'):
        PredictionsToFile("predictions.parquet")
