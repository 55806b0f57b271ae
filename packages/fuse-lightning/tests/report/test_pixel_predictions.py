import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score

from fuse_lightning.predictions.pixel_counts import pixel_counts
from fuse_lightning.report.pixel_predictions import dice, mean_dice


def test_dice_equals_torchmetrics_over_images_and_over_pixels():
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randint(4, (2, 5, 6, 6), generator=generator)
    counts = pixel_counts(predicted, target)
    arguments = {"num_classes": 4, "average": None}
    assert dice(counts.sum(axis=0)) == pytest.approx(multiclass_f1_score(predicted, target, **arguments).numpy())
    for own, mask, true in zip(dice(counts), predicted, target, strict=True):
        assert own == pytest.approx(multiclass_f1_score(mask, true, **arguments).numpy())


def test_the_mean_leaves_out_the_background_and_classes_that_do_not_occur():
    assert mean_dice(np.array([[1.0, 0.5, np.nan, 0.7], [1.0, np.nan, np.nan, np.nan]])).tolist() == pytest.approx(
        [0.6, np.nan], nan_ok=True
    )
