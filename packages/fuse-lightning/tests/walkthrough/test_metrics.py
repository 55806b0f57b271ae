import pytest
import torch

from fuse_lightning.walkthrough.template.dice_by_class import DiceByClass
from fuse_lightning.walkthrough.template.segmentation_report import dice_by_class

CLASSES = ("background", "a", "b", "c")


def test_the_dice_of_several_batches_is_that_of_all_pixels_together():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(4, (6, 5, 7), generator=generator)
    target = torch.randint(4, (6, 5, 7), generator=generator)
    metric = DiceByClass(CLASSES)
    for chosen in (slice(0, 4), slice(4, 6)):
        metric.update(prediction[chosen], target[chosen])
    expected = []
    for index in range(4):
        predicted, true = prediction == index, target == index
        expected.append(2 * int((predicted & true).sum()) / int(predicted.sum() + true.sum()))
    computed = metric.compute()
    assert [float(computed[name]) for name in CLASSES] == pytest.approx(expected)
    assert float(computed["mean"]) == pytest.approx(sum(expected[1:]) / 3)
    assert dice_by_class(prediction.numpy(), target.numpy())[:4] == pytest.approx(expected)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    metric = DiceByClass(CLASSES)
    target = torch.tensor([[0, 1, 1, 2]])
    prediction = torch.tensor([[0, 1, 2, 2]])
    metric.update(prediction, target)
    computed = metric.compute()
    assert computed["c"].isnan()
    assert float(computed["mean"]) == pytest.approx(2 / 3)  # both other classes have 2 * 1 / 3
    assert dice_by_class(prediction.numpy(), target.numpy())[:3] == pytest.approx([1, 2 / 3, 2 / 3])
