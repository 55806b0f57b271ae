import csv

import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import IterableDataset

from fuse_core import collate
from fuse_lightning import PredictionsToFile, convert_predictions_to_dataframe
from fuse_lightning.prediction_rows import RowFile, merge_rows


def read(path):
    with path.open() as file:
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


def test_rows_of_processes_are_merged_and_repeated_ones_dropped(tmp_path):
    paths = []
    for rank, positions in enumerate(([0, 2, 4], [1, 3, 0])):  # the last one is padding
        rows = RowFile(tmp_path / f"rank{rank}")
        rows.write(0, positions[:2], {"id": positions[:2], "text": ["a", "b"]})
        rows.write(0, positions[2:], {"id": positions[2:], "text": ["c"]})
        rows.close()
        paths.append(rows.path)
    columns, merged = merge_rows(paths, drop_repeated=True)
    assert columns == {"id": "int64", "text": "str"}
    assert [row[1:] for row in merged] == [[0, 0, "a"], [1, 1, "a"], [2, 2, "b"], [3, 3, "b"], [4, 4, "c"]]


def test_numbers_keep_their_value_and_text_its_line_breaks(tmp_path):
    values = {
        "tenth": torch.tensor([0.1, torch.nan]).numpy(),
        "exact": torch.tensor([0.1, torch.inf], dtype=torch.float64).numpy(),
        "text": ["a\nb", ("test", 1)],
    }
    writer = PredictionsToFile(tmp_path / "t.csv")
    rows = RowFile(tmp_path / "rows")
    rows.write(0, [0, 1], values)
    rows.close()
    writer._write(*merge_rows([rows.path], drop_repeated=False), [])
    assert read(tmp_path / "t.csv") == [
        ["tenth", "exact", "text"],
        ["0.1", "0.1", "a\nb"],
        ["nan", "inf", "('test', 1)"],
    ]


def test_batches_must_agree_in_columns_and_samples(tmp_path):
    rows = RowFile(tmp_path / "rows")
    rows.write(0, [0], {"a": [1]})
    with pytest.raises(ValueError, match="different columns: a; then b"):
        rows.write(0, [1], {"b": [1]})
    with pytest.raises(ValueError, match="A batch of 2 samples gives 1 values of 'a'"):
        rows.write(0, [1, 2], {"a": [1]})
    rows.remove()
    assert not rows.path.exists()


def test_nothing_to_write_is_an_error(tmp_path):
    rows = RowFile(tmp_path / "rows")
    rows.close()
    with pytest.raises(ValueError, match=r"no predictions to write\. Was the loader empty"):
        merge_rows([rows.path], drop_repeated=False)


def test_predictions_must_be_a_mapping(make_module, make_trainer, make_loader, tmp_path):
    module = make_module(prediction_keys=["model.y"])
    module.predict_step = lambda batch, batch_idx: torch.zeros(4)
    with pytest.raises(TypeError, match=r"as a mapping of keys to values.*got a Tensor"):
        make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")]).predict(module, make_loader(4))


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet, got 'predictions\.txt'"):
        PredictionsToFile("predictions.txt")


def test_parquet_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "fuse-lightning\[parquet\]"'):
        PredictionsToFile("predictions.parquet")
