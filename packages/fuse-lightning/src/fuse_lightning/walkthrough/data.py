"""The walkthrough's data: images and labels, split three ways, as loaders of batch_dicts.

Keys written: `data.sample_id`, `data.image` (float32 [B, 1, H, W], from 0 to 1) and `data.label` (int64 [B]).
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch.utils.data import DataLoader, TensorDataset

from fuse_core import Collate, DatasetWrapSeqToDict, NDict

IMAGE = "data.image"
LABEL = "data.label"

# The names under which the four MNIST files are known: as published, and with the dot that some archives use.
IDX_FILES = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, float32 [N, H, W] from 0 to 1, and labels, int64 [N]."""


@dataclass(frozen=True)
class Splits:
    """The three parts of the data: to train on, to choose the best epoch with, and to report."""

    train: Arrays
    validation: Arrays
    test: Arrays

    @property
    def image_size(self) -> int:
        """The images' height and width in pixels."""
        return int(self.train[0].shape[1])


def digits_splits(seed: int) -> Splits:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: 60 % to train, 20 % to validate, 20 % to test."""
    digits = load_digits()
    images, labels = (digits.images / 16.0).astype(np.float32), digits.target.astype(np.int64)
    rest, test = _stratified_split((images, labels), test_size=0.2, seed=seed)
    train, validation = _stratified_split(rest, test_size=0.25, seed=seed)
    return Splits(train, validation, test)


def mnist_splits(data_dir: Path, seed: int) -> Splits:
    """MNIST from its four IDX files, gzipped or not: its own test set, and a tenth of the training set to validate.

    Raises:
        FileNotFoundError: a file is missing; lists what was looked for.
    """
    paths = _find_idx_files(data_dir)
    arrays = {
        part: ((read_idx(paths[f"{part} images"]) / 255.0).astype(np.float32), read_idx(paths[f"{part} labels"]))
        for part in ("train", "test")
    }
    for part, (images, labels) in arrays.items():
        size = arrays["train"][0].shape[-1]
        if images.ndim != 3 or images.shape[1:] != (size, size) or size % 2 or labels.shape != (len(images),):
            raise ValueError(
                f"The {part} files need square images [N, H, W] of one even size in all files and as many labels [N]; "
                f"{data_dir} holds images {images.shape} and labels {labels.shape}."
            )
        if labels.max(initial=0) > 9:
            raise ValueError(f"The {part} labels must be digits from 0 to 9; {data_dir} holds {labels.max()}.")
    train_images, train_labels = arrays["train"]
    train, validation = _stratified_split((train_images, train_labels.astype(np.int64)), test_size=0.1, seed=seed)
    return Splits(train, validation, (arrays["test"][0], arrays["test"][1].astype(np.int64)))


def _stratified_split(arrays: Arrays, test_size: float, seed: int) -> tuple[Arrays, Arrays]:
    """Two parts in which every digit is as frequent as in the whole."""
    images, labels = arrays
    parts = train_test_split(images, labels, test_size=test_size, stratify=labels, random_state=seed)
    return (parts[0], parts[2]), (parts[1], parts[3])


def _find_idx_files(data_dir: Path) -> dict[str, Path]:
    found, missing = {}, []
    for what, names in IDX_FILES.items():
        candidates = [data_dir / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
        existing = [path for path in candidates if path.is_file()]
        if existing:
            found[what] = existing[0]
        else:
            missing.append(f"  {what}: {', '.join(path.name for path in candidates)}")
    if missing:
        raise FileNotFoundError(
            f"--data-dir needs the four MNIST IDX files. In {data_dir} none of these was found:\n" + "\n".join(missing)
        )
    return found


def read_idx(path: Path) -> np.ndarray:
    """An array from a file in IDX format, gzipped or not.

    The format: two zero bytes, the element type (8 for unsigned bytes), the rank, the size of each axis as a big-endian
    32-bit integer, then the elements.

    Raises:
        ValueError: the file is no IDX file of unsigned bytes, or is cut off.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # the signature of gzip, whatever the file is called
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} cannot be decompressed: {error}. Is it cut off?") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4]!r}.")
    rank = content[3]
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header])
    elements = np.frombuffer(content, dtype=np.uint8, offset=header)
    if elements.size != np.prod(shape):
        raise ValueError(f"{path} says it holds {shape} bytes, but {elements.size} bytes follow. Is it cut off?")
    return elements.reshape(shape)


def make_loader(split: str, arrays: Arrays, batch_size: int, training: bool = False) -> "DataLoader[NDict]":
    """A loader of batch_dicts, for training in random order and with augmented images.

    The tuples (image, label) get key names, and `Collate` makes batches of them. To use data of your own, replace the
    TensorDataset by any dataset that returns tuples; for large data add `num_workers`.
    """
    images, labels = arrays
    tuples = TensorDataset(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
    samples = DatasetWrapSeqToDict(tuples, sample_keys=[IMAGE, LABEL], name=split)
    collate = Collate(post=shift_randomly if training else None)
    return DataLoader(samples, batch_size=batch_size, shuffle=training, collate_fn=collate)


def shift_randomly(batch_dict: NDict, pixels: int = 1) -> NDict:
    """Augmentation: each image of the batch moved by up to `pixels`, up, down, left or right, and filled with zeros."""
    images = batch_dict[IMAGE]
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    down, right = torch.randint(2 * pixels + 1, (2, count, 1))
    rows = (torch.arange(height) + down)[:, None, :, None]
    columns = (torch.arange(width) + right)[:, None, None, :]
    batch_dict[IMAGE] = padded[torch.arange(count)[:, None, None, None], 0, rows, columns]
    return batch_dict
