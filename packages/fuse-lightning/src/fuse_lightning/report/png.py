"""Images as PNG files, without a library."""

import struct
import zlib

import numpy as np


def scaled(image: np.ndarray) -> np.ndarray:
    """An image as numbers from 0 to 1, its smallest value black and its largest white."""
    image = np.nan_to_num(image.astype(np.float64))
    low, high = image.min(), image.max()
    result: np.ndarray = (image - low) / ((high - low) or 1)
    return result


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG file of an image.

    Args:
        image: numbers from 0 to 1, shape [1, H, W], gray, or [3, H, W], RGB.
    """
    pixels = np.round(image * 255).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
