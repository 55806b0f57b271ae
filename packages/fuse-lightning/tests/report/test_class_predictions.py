import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fuse_lightning.report.class_predictions import (
    ClassPredictions,
    calibration_error,
    class_scores,
    read_class_predictions,
)

HEADER = "data.sample_id,model.output.cls.0,model.output.cls.1,data.label\n"
ROWS = "a,0.9,0.1,0\nb,0.2,0.8,0\nc,0.4,0.6,1\n"


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = generator.integers(0, 3, 500)  # the last class never occurs
    return ClassPredictions([str(index) for index in range(500)], probabilities, target, "p", "t")


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
    exact = ClassPredictions(["a", "b"], np.eye(2), np.array([0, 1]), "p", "t")
    assert calibration_error(*exact.calibration()) == 0


def test_the_only_probabilities_and_classes_of_a_file_are_found(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(HEADER + ROWS)
    found = read_class_predictions(path)
    assert (found.pred_key, found.target_key, found.ids) == ("model.output.cls", "data.label", ["a", "b", "c"])
    assert found.predicted.tolist() == [0, 1, 1]
    assert found.confusion().tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("data.sample_id,model.logits.cls.0,model.logits.cls.1,data.label\n", "a,2.0,-1.0,0\n"),  # no probabilities
        (HEADER.replace("data.label", "data.value"), "a,0.5,0.5,0.25\n"),  # no classes
        (HEADER.replace("data.label", "data.label,data.other"), "a,0.5,0.5,1,0\n"),  # two possible targets
        (HEADER, "a,0.5,0.5,2\n"),  # a class of which there is no probability
        (HEADER, "a,0.5,0.5,\n"),  # unknown
    ],
)
def test_a_file_without_a_clear_choice_gives_nothing(tmp_path, header, rows):
    path = tmp_path / "predictions.csv"
    path.write_text(header + rows)
    assert read_class_predictions(path) is None


def test_of_several_targets_the_named_one_is_taken(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(HEADER.replace("data.label", "data.label,data.other") + "a,0.9,0.1,1,0\n")
    found = read_class_predictions(path, target="data.other")
    assert found.target.tolist() == [0]
