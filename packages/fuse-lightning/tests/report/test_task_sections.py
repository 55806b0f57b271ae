import re

import pytest

from fuse_lightning.predictions.compared_keys import Task
from fuse_lightning.report.prediction_columns import PredictionColumns
from fuse_lightning.report.task_sections import task_sections

TASK = Task("y", "model.output.y", "data.y")


@pytest.fixture
def sections(tmp_path):
    """The numbers and the sections of a file with a prediction and its target."""

    def read(text, class_names=(), task=TASK):
        (tmp_path / "predictions.csv").write_text(text)
        found = task_sections(PredictionColumns(tmp_path / "predictions.csv"), task, class_names)
        return found and (dict(found.numbers), {title: "".join(parts) for title, parts in found.sections.items()})

    return read


def rows(html):
    lines = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", html)
    return [re.sub("<.*?>", " ", line.replace("<wbr>", "")).split() for line in lines]


def test_a_segmentation_shows_dice_over_images_and_over_pixels(sections):
    names = [f"model.output.y.pixels.{pair}" for pair in ("0.0", "0.1", "1.0", "1.1")]
    text = ",".join(["data.sample_id", *names]) + "\na,6,0,1,1\nb,0,4,0,4\nc,8,,,\n"
    numbers, parts = sections(text, ["ground", "tumor"])
    assert numbers == {"mean Dice over images": "0.6667", "mean Dice over pixels": "0.6667", "images": "3"}
    assert rows(parts["Classes"])[1] == ["tumor", "0.667", "0.667", "0.833", "2", "6"]
    assert rows(parts["Confusion matrix of pixels"])[0] == ["ground", "77.8", "22.2"]


def test_many_classes_show_the_most_frequent_mistakes_in_place_of_a_matrix(sections):
    header = ",".join(f"model.output.y.{index}" for index in range(101))
    lines = [
        ",".join([*("1" if index == predicted else "0" for index in range(101)), str(true)])
        for true, predicted in [(3, 7), (100, 5), (3, 7), (2, 2)]
    ]
    _, parts = sections("\n".join([f"{header},data.y", *lines, ""]))
    assert rows(parts["Confusion matrix"]) == [["3", "7", "2"], ["100", "5", "1"]]


@pytest.mark.parametrize("pred", ["model.output.y", "model.output.y.0"])
def test_predicted_classes_need_no_probabilities(sections, pred):
    numbers, parts = sections(f"{pred},data.y\n0,0\n2,0\n2,2.0\n1,255\n1,\n", ["cat", "dog", "elk", "fox"])
    assert numbers == {"accuracy": "0.6667", "95 % interval": "0.208 to 0.939"}
    assert rows(parts["Confusion matrix"])[0] == ["cat", "1", "·", "1", "·"]
    assert rows(parts["Classes"])[2] == ["elk", "0.500", "1.000", "0.667", "1"]
    assert "Calibration" not in parts
    numbers, _ = sections("model.output.y,data.y\n0,0.5\n2,2.0\n")
    assert next(iter(numbers)) == "mean absolute error"


def test_classes_that_never_occur_keep_their_names(sections):
    _, parts = sections("data.sample_id,model.output.y.pixels.0.0\na,9\n", ["ground", "tumor"])
    assert rows(parts["Classes"])[1] == ["tumor", "-", "-", "-", "0", "0"]


def test_labels_show_scores_of_each_and_leave_out_unknown_ones(sections):
    text = "model.output.y.0,model.output.y.1,data.y.0,data.y.1\n0.9,0.2,1,0\n0.4,0.6,0,\n0.7,0.8,0,1\n"
    numbers, parts = sections(text, ["mass", "edema"])
    assert rows(parts["Labels"]) == [
        ["mass", "0.500", "1.000", "0.667", "1.000", "1", "3"],
        ["edema", "1.000", "1.000", "1.000", "1.000", "1", "2"],
    ]
    assert numbers == {"mean AUROC": "1.0000", "mean F1": "0.8333"}
    assert "3 samples" in parts["Labels"]


def test_samples_without_a_known_label_are_named(sections):
    _, parts = sections("model.output.y,data.y\n0.9,1\n0.2,0\n0.7,\n")
    assert "2 samples of" in parts["Labels"]
    assert "1 samples without a known target are left out" in parts["Labels"]


def test_logits_far_from_zero_are_labels(sections):
    task = TASK._replace(pred="model.logits.y")
    numbers, _ = sections("model.logits.y,data.y\n-800,0\n800,1\n", task=task)
    assert numbers == {"AUROC": "1.0000", "F1": "1.0000"}


def test_a_single_probability_is_a_label(sections):
    numbers, parts = sections("model.output.y,data.y\n0.9,1\n0.2,0\n")
    assert numbers == {"AUROC": "1.0000", "F1": "1.0000"}
    assert rows(parts["Labels"])[0][0] == "y"


def test_numbers_show_their_errors(sections):
    numbers, parts = sections("model.output.y,data.y\n1.5,1\n2.5,3\n7,\n")
    assert numbers == {"mean absolute error": "0.5", "root mean squared error": "0.5", "R²": "0.75"}
    assert rows(parts["Errors"]) == [["y", "0.5", "0.5", "0.75", "0", "2"]]
    assert parts["Predicted against true"].count("<circle") == 2
    assert "1 samples without a known target are left out" in parts["Errors"]


@pytest.mark.parametrize(
    "text",
    [
        "model.output.y,data.y\n1.5,\n",  # nothing is known
        "model.output.y,data.y\n1.5,text\n",
        "model.output.y.0,model.output.y.1,data.y\n1.5,2.5,0.5\n",  # other shapes
        "model.output.y,data.y\n",  # no samples
    ],
)
def test_what_cannot_be_compared_has_no_sections(sections, text):
    assert sections(text) is None
