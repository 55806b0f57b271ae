"""Blocks 7 and 8 of the segmentation task, infer and evaluate: saves and evaluates the predictions.

Keys read, of the predicted batches: `data.sample_id`, `model.output.digits` [B, H, W] and `data.mask` [B, H, W].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from fuse_core import SAMPLE_ID, output_key
from fuse_lightning import convert_predictions_to_dataframe
from fuse_lightning.predictions.pixel_counts import masks_to_counts
from fuse_lightning.report.worst_cases import COLORS as CLASS_COLORS
from fuse_lightning.run_folder import PREDICTIONS_FILE

from .dice_by_class import DiceByClass
from .figures import DPI, draw_confusion_matrix, new_figure
from .loaders import sample_ids
from .segmentation_data import CLASSES, MASK
from .task import Evaluation, Samples, Splits

MASKS_FILE = "predicted_masks.npz"
PREDICTED_MASK = output_key("digits")
DICE = "dice"

# A color for each digit, as in the page's worst cases. The background has none, so that the image is visible.
COLORS = ListedColormap(CLASS_COLORS)


def save_predictions(batches: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
    """Write all masks to `predicted_masks.npz`, and a row for each image to `predictions.csv`.

    A row counts the pixels of each true and predicted class, in `model.output.digits.pixels.<true>.<predicted>`. The
    page's numbers come from these columns.

    If your images are large, write one file each, in the format of your field, from `on_predict_batch_end`.
    """
    ids = [sample_id for batch in batches for sample_id in batch[SAMPLE_ID]]
    predicted = torch.cat([batch[PREDICTED_MASK].cpu() for batch in batches]).numpy().astype(np.uint8)
    true = torch.cat([batch[MASK].cpu() for batch in batches]).numpy().astype(np.uint8)
    np.savez_compressed(run_dir / MASKS_FILE, sample_id=np.array(ids), predicted=predicted, true=true)
    table = pd.DataFrame(
        {
            SAMPLE_ID: ids,
            "true_digits": [_digits(mask) for mask in true],
            "predicted_digits": [_digits(mask) for mask in predicted],
            DICE: [np.nanmean(dice_by_class(*pair)[1:]) for pair in zip(predicted, true, strict=True)],
        }
    )
    counts = convert_predictions_to_dataframe([masks_to_counts(batch) for batch in batches])
    table = table.merge(counts, on=SAMPLE_ID)
    table.to_csv(run_dir / PREDICTIONS_FILE, index=False)


def _digits(mask: np.ndarray) -> str:
    """The digits in a mask, such as `3 7`."""
    return " ".join(CLASSES[index] for index in np.unique(mask) if index > 0)


def dice_by_class(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The Dice of each class over all pixels, as the metric computes it; NaN if neither mask holds the class."""
    metric = DiceByClass(CLASSES)
    metric.update(torch.from_numpy(predicted), torch.from_numpy(true))
    computed = metric.compute()
    return np.array([float(computed[name]) for name in CLASSES])


def evaluate(run_dir: Path, splits: Splits) -> Evaluation:
    """Compute the Dice of each class over all test pixels, and of each image; draw overlays and confusion matrix."""
    masks = np.load(run_dir / MASKS_FILE)
    predicted, true = masks["predicted"], masks["true"]
    by_image = pd.read_csv(run_dir / PREDICTIONS_FILE)[DICE].to_numpy()
    dice = dice_by_class(predicted, true)
    mean = float(np.nanmean(dice[1:]))
    title = f"{true.size:,} test pixels, mean Dice of the digits over all pixels {mean:.4f}"
    picture = run_dir / "confusion_matrix.png"
    draw_confusion_matrix(true.ravel(), predicted.ravel(), CLASSES, title, picture, percent=True)
    worst = np.argsort(by_image, kind="stable")
    for file, chosen in (("overlays.png", np.arange(5)), ("worst_segmented.png", worst[:5])):
        draw_overlays(splits.test, masks, by_image, chosen, run_dir / file)
    return Evaluation(
        score_name="mean Dice over all pixels",
        score=mean,
        numbers={
            "images": f"{len(true):,}",
            "mean Dice over images": f"{np.nanmean(by_image):.4f}",
            "median image Dice": f"{np.nanmedian(by_image):.3f}",
            "worst image Dice": f"{by_image[worst[0]]:.3f}",
        },
        pictures={"Overlays of the first test images": "overlays.png"},
    )


def draw_overlays(
    samples: Samples, masks: Mapping[str, np.ndarray], by_image: np.ndarray, chosen: np.ndarray, path: Path
) -> None:
    """Draw a row for each chosen image: the image, target and prediction over it, and their difference."""
    position = {sample_id: index for index, sample_id in enumerate(sample_ids("test", samples))}
    figure = new_figure(11, 2.75 * len(chosen) + 0.8)
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    for row, index in zip(grid, chosen, strict=True):
        sample_id = str(masks["sample_id"][index])
        image = samples.images[position[sample_id], 0]
        true, predicted = masks["true"][index], masks["predicted"][index]
        for axes, mask in zip(row, (None, true, predicted, None), strict=True):
            axes.imshow(image, cmap="gray_r", vmin=-0.2, vmax=1.6)
            axes.set(xticks=[], yticks=[])
            if mask is not None:
                shown = np.ma.masked_equal(mask, 0) - 1
                axes.imshow(shown, cmap=COLORS, vmin=-0.5, vmax=9.5, alpha=0.75, interpolation="nearest")
        wrong = np.ma.masked_equal(predicted != true, False)
        row[3].imshow(wrong, cmap=ListedColormap(["#c62828"]), interpolation="nearest")
        row[0].set_ylabel(f"{sample_id}\nDice {by_image[index]:.3f}", fontsize=12)
    for axes, title in zip(grid[0], ("image", "target", "prediction", "wrong pixels"), strict=True):
        axes.set_title(title)
    patches = [Patch(color=COLORS(digit), label=name) for digit, name in enumerate(CLASSES[1:])]
    figure.legend(handles=patches, loc="outside lower center", ncols=10, frameon=False)
    figure.savefig(path, dpi=DPI * 0.75)
