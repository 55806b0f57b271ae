import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fuse_lightning.predictions.compared_keys import Task
from fuse_lightning.report.class_predictions import (
    ClassPredictions,
    calibration_error,
    class_scores,
    read_class_predictions,
)
from fuse_lightning.report.prediction_columns import PredictionColumns

HEADER = "data.sample_id,model.output.cls.0,model.output.cls.1,data.label\n"
ROWS = "a,0.9,0.1,0\nb,0.2,0.8,0\nc,0.4,0.6,1\n"


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = generator.integers(0, 3, 500)  # the last class never occurs
    return ClassPredictions(probabilities, target)


def test_confusion_and_scores_equal_those_of_scikit_learn(predictions):
    counts = predictions.confusion()
    assert np.array_equal(counts, confusion_matrix(predictions.target, predictions.predicted, labels=range(4)))
    expected = precision_recall_fscore_support(
        predictions.target, predictions.predicted, labels=range(4), zero_division=0
    )
    assert np.allclose(class_scores(counts), np.stack(expected, axis=1))


def test_the_calibration_error_equals_the_sum_over_samples_in_bins(predictions):
    confidence, right = predictions.probabilities.max(axis=1), predictions.predicted == predictions.target
    expected = 0.0
    for index in range(15):
        inside = (confidence >= index / 15) & (confidence < (index + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(*predictions.calibration()) == pytest.approx(expected)


def test_certain_and_right_predictions_are_calibrated():
    exact = ClassPredictions(np.eye(2), np.array([0, 1]))
    assert calibration_error(*exact.calibration()) == 0


@pytest.fixture
def read(tmp_path):
    """Reads the predictions of a file."""

    def read_text(text, pred="model.output.cls"):
        (tmp_path / "predictions.csv").write_text(text)
        return read_class_predictions(PredictionColumns(tmp_path / "predictions.csv"), Task("cls", pred, "data.label"))

    return read_text


def test_probabilities_and_classes_of_a_file_are_read(read):
    found = read(HEADER + ROWS)
    assert found.predicted.tolist() == [0, 1, 1]
    assert found.confusion().tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("unknown", ["", "-1", "-100", "nan", "255"])
def test_samples_of_unknown_class_are_left_out(read, unknown):
    assert read(f"{HEADER}{ROWS}d,0.5,0.5,{unknown}\n").predicted.tolist() == [0, 1, 1]


def test_logits_become_probabilities_by_a_softmax(read):
    header = HEADER.replace("model.output.cls", "model.logits.cls")
    found = read(f"{header}a,{math.log(3)},0,0\n", pred="model.logits.cls")
    assert found.probabilities[0] == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (HEADER, "a,2.0,-1.0,0\n"),  # no probabilities
        (HEADER, "a,0.5,0.5,0.25\n"),  # no classes
        (HEADER, "a,0.5,0.5,2\n"),  # a class of which there is no probability
        (HEADER, "a,0.5,0.5,\n"),  # unknown
        (HEADER.replace("cls.1", "cls.x"), "a,0.5,0.5,0\n"),  # a single value
    ],
)
def test_columns_that_are_no_classes_give_nothing(read, header, rows):
    assert read(header + rows) is None
