"""Counts of pixels in place of masks, which are too large for a table of predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compared_keys import compared_target

PIXELS = "pixels"
VOID = 255  # marks pixels without a class in masks of 8 bits; other programs use negative numbers
MOST_CLASSES = 256  # more are no classes, but values such as depths


def masks_to_counts(prediction: Mapping[str, Any], compared: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The prediction with counts in place of its masks, for each predicted segmentation whose true one it holds.

    True ones are below `data`. Predicted ones hold classes, or a score for each class. Both become the columns
    `<prediction>.pixels.<true class>.<predicted class>`: how many of the sample's pixels have these two classes.
    Everything else about the masks, such as the Dice of each class, follows from them.

    Args:
        prediction: predicted and true values by key.
        compared: the target of each prediction, as far as it is known. Without it, a single predicted and a single true
            segmentation are compared. All other masks stay masks.

    Example:
        >>> masks = {"model.output.seg": torch.tensor([[[0, 1, 1]]]), "data.mask": torch.tensor([[[0, 1, 0]]])}
        >>> for column, counts in masks_to_counts(masks).items():
        ...     print(column, counts)
        model.output.seg.pixels.0.0 [1]
        model.output.seg.pixels.0.1 [1]
        model.output.seg.pixels.1.1 [1]
    """
    large = [key for key, value in prediction.items() if isinstance(value, Tensor) and value.ndim > 2]
    true = [key for key in large if key.startswith("data.")]
    only = true[0] if len(large) == 2 and len(true) == 1 else ""
    counted, columns = set(), {}
    for key in [key for key in large if key not in true]:
        target = compared_target(key, compared or {}) or only
        if target in true and (masks := class_masks(key, prediction[key], prediction[target])) is not None:
            counted |= {key, target}
            columns.update(_columns(f"{key}.{PIXELS}", pixel_counts(*masks)))
    return {**{key: value for key, value in prediction.items() if key not in counted}, **columns}


def _columns(start: str, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The counts of the pairs of classes that occur, and of each class with itself."""
    classes = np.arange(counts.shape[1])
    occurs = counts.any(axis=0) | (classes[:, None] == classes)
    return {f"{start}.{row}.{column}": counts[:, row, column] for row, column in np.argwhere(occurs)}


def class_masks(key: str, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, int] | None:
    """The class of each pixel, predicted and true, and the number of predicted scores; None if they are no classes.

    Both have one shape. The true classes are whole numbers, each with a predicted score; without scores, there are at
    most 256 classes.

    Args:
        key: the key of the prediction. Of a single channel, scores below `model.logits` are positive for class 1, and
            others above 0.5.
        prediction: classes [B, *spatial] or [B, 1, *spatial], or scores [B, classes, *spatial].
        target: classes [B, *spatial] or [B, 1, *spatial].
    """
    scores = 0
    if prediction.is_floating_point():
        scores = max(2, prediction.shape[1])
        threshold = 0.0 if ".logits." in f".{key}." else 0.5
        one = prediction.shape[1] == 1
        prediction = (prediction[:, 0] > threshold).long() if one else prediction.argmax(dim=1)
    masks = [mask[:, 0] if mask.ndim > 3 and mask.shape[1] == 1 else mask for mask in (prediction, target)]
    if target.is_floating_point() and not (target == target.round()).all():
        return None
    predicted, true = (mask.long() for mask in masks)
    most = scores or MOST_CLASSES
    if predicted.shape != true.shape or any((mask[mask != VOID] >= most).any() for mask in (predicted, true)):
        return None
    return predicted, true, scores


def pixel_counts(predicted: Tensor, target: Tensor, classes: int = 0) -> np.ndarray:
    """How many pixels of each sample have which true and predicted class, shape [B, true class, predicted class].

    Pixels whose target is negative or 255, or whose predicted class is negative, are left out.

    Args:
        predicted: classes [B, *spatial].
        target: classes [B, *spatial].
        classes: the least number of classes.
    """
    predicted, target = (mask.flatten(1).cpu() for mask in (predicted, target))
    valid = (target >= 0) & (target != VOID) & (predicted >= 0)
    target = torch.where(valid, target, 0)
    classes = max(classes, *(int(mask.max()) + 1 if mask.numel() else 0 for mask in (predicted, target)))
    samples = torch.arange(len(target))[:, None]
    flat = ((samples * classes + target) * classes + predicted)[valid]
    counts = torch.bincount(flat, minlength=len(target) * classes**2)
    result: np.ndarray = counts.reshape(len(target), classes, classes).numpy()
    return result
