import io

import numpy as np
import pytest
from matplotlib.image import imread

from fuse_lightning.report.png import png_bytes, scaled


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_reads_back_as_it_was_scaled(channels):
    image = np.random.default_rng(0).normal(size=(channels, 5, 7)).astype(np.float32)
    pixels = imread(io.BytesIO(png_bytes(scaled(image))))
    expected = (image - image.min()) / (image.max() - image.min())
    assert np.abs(pixels - (expected[0] if channels == 1 else expected.transpose(1, 2, 0))).max() < 1 / 255


def test_an_image_of_one_value_is_black():
    assert not imread(io.BytesIO(png_bytes(scaled(np.full((1, 2, 2), 3.0))))).any()
