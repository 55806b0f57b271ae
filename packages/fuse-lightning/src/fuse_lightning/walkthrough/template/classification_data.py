"""Block 1 of the classification task, the data: images of digits with labels, three splits, and augmentation.

Keys: `data.image`, float32 [B, 1, H, W] from 0 to 1, and `data.label`, int64 [B], the digit.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fuse_core import NDict

from .mnist_files import Arrays, read_mnist
from .settings import Settings
from .task import Samples, Splits

IMAGE = "data.image"
LABEL = "data.label"
DIGITS = [str(digit) for digit in range(10)]


def load_splits(settings: Settings) -> Splits:
    """The 8 x 8 digits of scikit-learn, or MNIST from `--data-dir`."""
    if settings.data_dir is None:
        return digits_splits(settings.seed)
    return mnist_splits(Path(settings.data_dir), settings.seed)


def digits_splits(seed: int) -> Splits:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels: 60 % for training, 20 % for validation, 20 % for test."""
    digits = load_digits()
    images, labels = (digits.images / 16.0).astype(np.float32), digits.target.astype(np.int64)
    # Split medical data by patient, not by image, with sklearn.model_selection.StratifiedGroupKFold.
    rest, test = _stratified_split((images, labels), test_size=0.2, seed=seed)
    train, validation = _stratified_split(rest, test_size=0.25, seed=seed)
    return Splits(_samples(train), _samples(validation), _samples(test))


def mnist_splits(data_dir: Path, seed: int) -> Splits:
    """MNIST from its four IDX files, gzipped or not. A tenth of its training set is for validation."""
    whole, test = read_mnist(data_dir)
    train, validation = _stratified_split(whole, test_size=0.1, seed=seed)
    return Splits(_samples(train), _samples(validation), _samples(test))


def _stratified_split(arrays: Arrays, test_size: float, seed: int) -> tuple[Arrays, Arrays]:
    """Two parts with the same share of each digit."""
    images, labels = arrays
    parts = train_test_split(images, labels, test_size=test_size, stratify=labels, random_state=seed)
    return (parts[0], parts[2]), (parts[1], parts[3])


def _samples(arrays: Arrays) -> Samples:
    images, labels = arrays
    return Samples(images[:, np.newaxis], labels)  # networks expect an axis of channels


def shift_randomly(batch_dict: NDict, pixels: int = 1) -> NDict:
    """Augmentation: shifts each image of the batch by up to `pixels` in each direction, and pads it with zeros.

    It gets the batch and returns it. Use the augmentations of a library (torchvision's v2 transforms, kornia, MONAI) in
    the same way, on `batch_dict[IMAGE]`. There is no mirroring, because a mirrored 2 is not a digit.
    """
    images = batch_dict[IMAGE]
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    down, right = torch.randint(2 * pixels + 1, (2, count, 1))
    rows = (torch.arange(height) + down)[:, None, :, None]
    columns = (torch.arange(width) + right)[:, None, None, :]
    batch_dict[IMAGE] = padded[torch.arange(count)[:, None, None, None], 0, rows, columns]
    return batch_dict
