"""Block 1 of the segmentation task, the data: digits on noisy canvases, with the class of every pixel.

Keys: `data.image`, float32 [B, 1, 32, 32], from about 0 to 1, and `data.mask`, int64 [B, 32, 32]: 0 is background,
1 to 10 are the digits 0 to 9.
"""

from collections.abc import Sequence

import numpy as np
import torch

from fuse_core import NDict

from .classification_data import DIGITS, digits_splits
from .settings import Settings
from .task import Samples, Splits

IMAGE = "data.image"
MASK = "data.mask"
CLASSES: Sequence[str] = ["background", *DIGITS]

CANVAS = 32  # height and width in pixels
DIGIT = 8
INK = 0.3  # a pixel of at least this brightness belongs to the digit
CANVASES = {"train": 1280, "validation": 256, "test": 256}


def load_splits(settings: Settings) -> Splits:
    """Canvases with two to four digits each.

    The digits are split before they are pasted, so that no digit of the test canvases is seen in training. Splitting
    the finished canvases would put the same digit into both, a common mistake.
    """
    digits = digits_splits(settings.seed)
    rng = np.random.default_rng(settings.seed)
    return Splits(
        train=paste_digits(digits.train, CANVASES["train"], rng),
        validation=paste_digits(digits.validation, CANVASES["validation"], rng),
        test=paste_digits(digits.test, CANVASES["test"], rng),
    )


def paste_digits(digits: Samples, count: int, rng: np.random.Generator) -> Samples:
    """`count` canvases with noise and two to four digits each, which do not overlap."""
    images = rng.normal(0, 0.1, (count, 1, CANVAS, CANVAS)).astype(np.float32)
    masks = np.zeros((count, CANVAS, CANVAS), dtype=np.int64)
    for image, mask in zip(images[:, 0], masks, strict=True):
        for _ in range(rng.integers(2, 5)):
            row, column = _free_place(mask, rng)
            chosen = rng.integers(len(digits.targets))
            digit = digits.images[chosen, 0]
            place = np.s_[row : row + DIGIT, column : column + DIGIT]
            image[place] += digit
            mask[place] = np.where(digit >= INK, digits.targets[chosen] + 1, 0)
    return Samples(images, masks)


def _free_place(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A random free place for a digit. There always is one, because three digits cannot cover four corners."""
    while True:
        row, column = rng.integers(0, CANVAS - DIGIT + 1, 2)
        if not mask[row : row + DIGIT, column : column + DIGIT].any():
            return int(row), int(column)


def add_noise(batch_dict: NDict) -> NDict:
    """Augmentation: changes each image's brightness, and adds noise.

    An augmentation that moves pixels (flips, rotations, elastic deformations) must move image and mask in the same way.
    Change both keys here, and resample the mask by nearest neighbor.
    """
    images = batch_dict[IMAGE]
    brightness = 0.9 + 0.2 * torch.rand(len(images), 1, 1, 1)
    batch_dict[IMAGE] = images * brightness + 0.05 * torch.randn_like(images)
    return batch_dict
