"""The quality of a segmentation, computed from the counts of pixels in `predictions.csv` alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelPredictions:
    """Predicted and true classes of pixels.

    Attributes:
        ids: the samples' identifiers.
        counts: the pixels of each sample, shape [samples, true class, predicted class].
    """

    ids: Sequence[str]
    counts: np.ndarray

    @property
    def confusion(self) -> np.ndarray:
        """The pixels of all samples, shape [true class, predicted class]."""
        total: np.ndarray = self.counts.sum(axis=0)
        return total

    @property
    def over_pixels(self) -> np.ndarray:
        """The Dice of each class over the pixels of all samples together, shape [classes]."""
        return dice(self.confusion)

    @property
    def of_images(self) -> np.ndarray:
        """The Dice of each class in each sample, shape [samples, classes]."""
        return dice(self.counts)


def dice(counts: np.ndarray) -> np.ndarray:
    r"""The Dice of each class; NaN for a class that is neither true nor predicted.

    .. math::
        Dice_c = \frac{2 \, |P_c \cap T_c|}{|P_c| + |T_c|}

    Args:
        counts: pixels, shape [..., true class, predicted class].

    Example:
        >>> dice(np.array([[8, 1], [0, 2]])).round(3)
        array([0.941, 0.8  ])
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        quotient: np.ndarray = 2 * both / either
    return quotient


def mean_dice(values: np.ndarray) -> np.ndarray:
    """The mean over classes, without class 0, the background; NaN where none of them is true or predicted.

    Args:
        values: the Dice of each class, shape [..., classes].
    """
    of_classes = values[..., 1:]
    count = (~np.isnan(of_classes)).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.nansum(of_classes, axis=-1) / count
    return mean
