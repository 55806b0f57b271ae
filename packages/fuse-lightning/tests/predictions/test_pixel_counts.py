import pytest
import torch
from sklearn.metrics import confusion_matrix

from fuse_lightning.predictions.pixel_counts import class_masks, masks_to_counts, pixel_counts


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5)])
def test_the_counts_of_each_sample_are_its_confusion_matrix(shape):
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randint(3, (2, 6, *shape), generator=generator)
    counts = pixel_counts(predicted, target)
    for own, mask, true in zip(counts, predicted, target, strict=True):
        assert (own == confusion_matrix(true.flatten(), mask.flatten(), labels=range(3))).all()


def test_pixels_without_a_class_are_left_out():
    predicted, target = torch.tensor([[[0, 1, 1, 0, -1]]]), torch.tensor([[[0, 255, -1, 1, 1]]])
    assert pixel_counts(predicted, target).tolist() == [[[1, 0], [1, 0]]]


@pytest.mark.parametrize(
    ("key", "prediction"),
    [
        ("model.output.seg", [[[[0.9, 0.2]], [[0.1, 0.8]]]]),  # probabilities of two classes
        ("model.logits.seg", [[[[0.3, -0.2]], [[0.1, 0.4]]]]),  # their scores
        ("model.output.seg", [[[[0.3, 0.6]]]]),  # the probability of class 1
        ("model.logits.seg", [[[[-0.3, 0.2]]]]),  # its score
    ],
)
@pytest.mark.parametrize("channel", [False, True])
def test_scores_become_the_class_of_each_pixel(key, prediction, channel):
    target = torch.tensor([[[1, 1]]])
    predicted, true, classes = class_masks(key, torch.tensor(prediction), target[:, None] if channel else target)
    assert predicted.tolist() == [[[0, 1]]]
    assert true.tolist() == [[[1, 1]]]
    assert classes == 2


def test_masks_of_other_sizes_do_not_fit():
    assert class_masks("model.output.seg", torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_masks_of_every_type_are_classes(dtype):
    masks = {"model.output.seg": torch.zeros(1, 1, 1, 2), "data.mask": torch.tensor([[[0, 1]]]).to(dtype)}
    counts = {name.rpartition("pixels.")[2]: int(count[0]) for name, count in masks_to_counts(masks).items()}
    assert counts == {"0.0": 1, "1.0": 1, "1.1": 0}


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 7]]], dtype=torch.uint8)),  # a gray image beside two scores
        (torch.zeros(1, 2, 1, 2), torch.tensor([[[0.0, 0.5]]])),
        (torch.tensor([[[0, 1]]]), torch.tensor([[[0, 60_000]]])),  # depths
        (torch.tensor([[[0, 60_000]]]), torch.tensor([[[0, 1]]])),
    ],
)
def test_other_values_are_no_classes(prediction, target):
    assert class_masks("model.output.seg", prediction, target) is None


def test_a_prediction_is_counted_with_the_declared_target_only():
    prediction = {"model.output.seg": torch.zeros(1, 1, 2).long(), "data.image": torch.zeros(1, 1, 2).long()}
    assert masks_to_counts(prediction, {"model.logits.seg": "data.mask"}) == prediction
    assert "model.output.seg.pixels.0.0" in masks_to_counts(prediction, {"model.logits.seg": "data.image"})


def test_each_prediction_is_counted_with_its_own_target():
    masks = {"data.organ": torch.tensor([[[0, 1]]]), "data.lesion": torch.tensor([[[1, 1]]])}
    scores = {"model.logits.organ": torch.tensor([[[[2.0, 2.0]], [[1.0, 1.0]]]])}
    classes = {"model.output.organ": torch.tensor([[[1, 1]]]), "model.output.lesion": torch.tensor([[[0, 1]]])}
    compared = {"model.logits.organ": "data.organ", "model.logits.lesion": "data.lesion"}
    counts = masks_to_counts({**scores, **classes, **masks}, compared)
    assert {name: int(count[0]) for name, count in counts.items() if count[0]} == {
        "model.logits.organ.pixels.0.0": 1,
        "model.logits.organ.pixels.1.0": 1,
        "model.output.organ.pixels.0.1": 1,
        "model.output.organ.pixels.1.1": 1,
        "model.output.lesion.pixels.1.0": 1,
        "model.output.lesion.pixels.1.1": 1,
    }
    image = {"model.output.lesion": classes["model.output.lesion"], "data.lesion": torch.zeros(1, 3, 4, 4)}
    assert masks_to_counts(image, compared) == image


def test_only_pairs_of_classes_that_occur_are_columns_and_each_class():
    masks = {"model.output.seg": torch.tensor([[[0, 2]]]), "data.mask": torch.tensor([[[0, 0]]])}
    columns = masks_to_counts({"data.sample_id": ["a"], **masks})
    pairs = ["0.0", "0.2", "1.1", "2.2"]
    assert list(columns) == ["data.sample_id", *(f"model.output.seg.pixels.{pair}" for pair in pairs)]


@pytest.mark.parametrize(
    "other",
    [
        {"model.output.two": torch.zeros(1, 2, 1, 2)},  # two predictions
        {"data.image": torch.zeros(1, 1, 1, 2)},
    ],
)
def test_masks_without_a_clear_pair_are_left_as_they_are(other):
    prediction = {"model.output.seg": torch.zeros(1, 1, 2).long(), "data.mask": torch.zeros(1, 1, 2).long(), **other}
    assert masks_to_counts(prediction) == prediction
