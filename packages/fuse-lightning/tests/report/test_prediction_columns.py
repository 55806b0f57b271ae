import numpy as np
import pytest

from fuse_lightning.report.prediction_columns import PredictionColumns

TEXT = """data.sample_id,model.x.0,model.x.1,data.y,data.known,data.name,model.seg.pixels.0.0,model.seg.pixels.1.0
a,1,2,0.5,True,u,4,
b,3,,,False,v,3,1
"""


@pytest.fixture
def columns(tmp_path):
    (tmp_path / "predictions.csv").write_text(TEXT)
    return PredictionColumns(tmp_path / "predictions.csv")


def test_the_parts_of_a_value_have_one_key(columns):
    assert columns.keys == ["data.sample_id", "model.x", "data.y", "data.known", "data.name", "model.seg"]
    assert columns.with_pixels == {"model.seg"}
    assert columns.ids == ["a", "b"]


def test_numbers_have_a_row_for_each_sample_and_nan_where_there_is_none(columns):
    assert np.array_equal(columns.numbers("model.x"), [[1, 2], [3, np.nan]], equal_nan=True)
    assert np.array_equal(columns.numbers("data.y"), [[0.5], [np.nan]], equal_nan=True)
    assert columns.numbers("data.known").tolist() == [[1], [0]]


def test_cells_may_be_long(tmp_path):
    (tmp_path / "long.csv").write_text(f"data.y,model.boxes\n1,{'0' * 200_000}\n")
    assert PredictionColumns(tmp_path / "long.csv").numbers("data.y").tolist() == [[1]]


def test_texts_are_no_numbers(columns):
    assert columns.numbers("data.name") is None
    assert columns.numbers("data.missing") is None


def test_pixels_are_counted_by_true_and_predicted_class(columns):
    assert columns.pixels("model.seg").tolist() == [[[4, 0], [0, 0]], [[3, 0], [1, 0]]]
    assert columns.pixels("model.x") is None
