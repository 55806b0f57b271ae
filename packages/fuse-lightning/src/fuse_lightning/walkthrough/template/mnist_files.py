"""MNIST's own file format, for `--data-dir`."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from .settings import BadInputError

# The names of the four MNIST files: as published, and with the dot that some archives use.
IDX_FILES = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}

Arrays = tuple[np.ndarray, np.ndarray]


def read_mnist(data_dir: Path) -> tuple[Arrays, Arrays]:
    """Images, float32 [N, H, W] from 0 to 1, and labels, int64 [N], of the training and of the test files.

    Raises:
        BadInputError: a file is missing, or the files do not hold square images of one size and as many digits.
    """
    paths = _find_idx_files(data_dir)
    train, test = (
        ((read_idx(paths[f"{part} images"]) / 255.0).astype(np.float32), read_idx(paths[f"{part} labels"]))
        for part in ("train", "test")
    )
    size = train[0].shape[-1]
    for part, (images, labels) in (("train", train), ("test", test)):
        if images.ndim != 3 or images.shape[1:] != (size, size) or labels.shape != (len(images),):
            raise BadInputError(
                f"The {part} files need square images [N, H, W] of one size in all files and as many labels [N]; "
                f"{data_dir} holds images {images.shape} and labels {labels.shape}."
            )
        if labels.max(initial=0) > 9:
            raise BadInputError(f"The {part} labels must be digits from 0 to 9; {data_dir} holds {labels.max()}.")
    return (train[0], train[1].astype(np.int64)), (test[0], test[1].astype(np.int64))


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
        raise BadInputError(
            f"--data-dir needs the four MNIST IDX files. In {data_dir} none of these was found:\n" + "\n".join(missing)
        )
    return found


def read_idx(path: Path) -> np.ndarray:
    """An array from a file in IDX format, gzipped or not.

    The format: two zero bytes, the element type (8 for unsigned bytes), the rank, the size of each axis as a big-endian
    32-bit integer, then the elements.

    Raises:
        BadInputError: the file is no IDX file of unsigned bytes, or is cut off.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # the signature of gzip, whatever the file is called
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise BadInputError(f"{path} cannot be decompressed: {error}. Is it cut off?") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise BadInputError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4]!r}.")
    rank = content[3]
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header])
    elements = np.frombuffer(content, dtype=np.uint8, offset=header)
    if elements.size != np.prod(shape):
        raise BadInputError(f"{path} says it holds {shape} bytes, but {elements.size} bytes follow. Is it cut off?")
    return elements.reshape(shape)
