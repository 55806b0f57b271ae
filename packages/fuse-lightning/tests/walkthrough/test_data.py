import gzip
import struct

import numpy as np
import pytest
import torch

from fuse_core import NDict
from fuse_lightning.walkthrough.template import classification, loaders, segmentation_data
from fuse_lightning.walkthrough.template.classification_data import digits_splits, mnist_splits, shift_randomly
from fuse_lightning.walkthrough.template.mnist_files import read_idx
from fuse_lightning.walkthrough.template.segmentation_data import paste_digits
from fuse_lightning.walkthrough.template.settings import BadInputError, make_settings
from fuse_lightning.walkthrough.template.task import Samples

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_bytes(array):
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_mnist(folder, compress):
    """Images of 28 x 28 in which the digit is the row that is lit: easy to learn, in MNIST's own format."""
    for part, count in (("train", 400), ("test", 100)):
        labels = np.arange(count) % 10
        images = np.random.default_rng(0).integers(0, 60, (count, 28, 28))
        images[np.arange(count), labels * 2 + 4] = 255
        for name, array in zip(IDX_NAMES[part], (images, labels), strict=True):
            content = idx_bytes(array)
            (folder / f"{name}.gz" if compress else folder / name).write_bytes(
                gzip.compress(content) if compress else content
            )


def test_the_digits_are_split_by_class_and_without_overlap():
    splits = digits_splits(seed=0)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part.targets) for part in parts] == [1077, 360, 360]
    for part in parts:
        assert part.images.dtype == np.float32
        assert part.images.shape[1:] == (1, 8, 8)
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert np.bincount(part.targets).min() >= 0.09 * len(part.targets)
    assert len({image.tobytes() for part in parts for image in part.images}) == 1797


def test_the_split_depends_on_the_seed_alone():
    assert np.array_equal(digits_splits(3).test.images, digits_splits(3).test.images)
    assert not np.array_equal(digits_splits(3).test.images, digits_splits(4).test.images)


def test_augmentation_moves_each_image_by_up_to_a_pixel():
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 4, 6)
    images[:, :, 2, 3] = 1
    shifted = shift_randomly(NDict({"data.image": images.clone()}))["data.image"]
    assert shifted.shape == images.shape
    assert {tuple(position) for position in shifted.nonzero()[:, 2:].tolist()} == {
        (row, column) for row in (1, 2, 3) for column in (2, 3, 4)
    }
    assert (shifted.sum(dim=(1, 2, 3)) == 1).all()


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_keeps_its_own_test_set(tmp_path, compress):
    write_mnist(tmp_path, compress)
    splits = mnist_splits(tmp_path, seed=0)
    parts = (splits.train, splits.validation, splits.test)
    assert [part.images.shape for part in parts] == [(360, 1, 28, 28), (40, 1, 28, 28), (100, 1, 28, 28)]


def test_missing_files_are_listed(tmp_path):
    write_mnist(tmp_path, compress=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadInputError) as info:
        mnist_splits(tmp_path, seed=0)
    message = str(info.value)
    assert message.startswith(f"--data-dir needs the four MNIST IDX files. In {tmp_path} none of these was found:")
    assert "test labels: t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte.gz, t10k-labels.idx1-ubyte," in message
    assert "train images" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "is no IDX file"),
        (b"\x00\x00\x08\x03\x00", "is no IDX file"),
        (gzip.compress(b"12345678", mtime=0)[:-9], "cannot be decompressed"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", r"says it holds \(5,\) bytes, but 2 bytes"),
    ],
)
def test_files_that_are_no_idx_are_rejected(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        read_idx(path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("train", lambda images, labels: (images[:, :, :20], labels), "square images"),
        ("test", lambda images, labels: (images[:, :20, :20], labels), "of one size in all files"),
        ("train", lambda images, labels: (images[:-1], labels), "as many labels"),
        ("test", lambda images, labels: (images, labels + 5), "digits from 0 to 9"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_rejected(tmp_path, part, change, message):
    write_mnist(tmp_path, compress=False)
    paths = [tmp_path / name for name in IDX_NAMES[part]]
    for path, array in zip(paths, change(*map(read_idx, paths)), strict=True):
        path.write_bytes(idx_bytes(array))
    with pytest.raises(BadInputError, match=message):
        mnist_splits(tmp_path, seed=0)


def test_canvases_hold_two_to_four_whole_digits_each_marked_with_its_class():
    # Digits that fill their 64 pixels, so that they can be counted in the mask.
    images, targets = np.ones((10, 1, 8, 8), dtype=np.float32), np.arange(10)
    samples = paste_digits(Samples(images, targets), 200, np.random.default_rng(0))
    assert samples.images.shape == (200, 1, 32, 32)
    assert samples.images.dtype == np.float32
    pixels = (samples.targets > 0).sum(axis=(1, 2))
    assert set(pixels) == {2 * 64, 3 * 64, 4 * 64}
    assert set(np.unique(samples.targets)) == set(range(11))
    assert abs(samples.images[:, 0][samples.targets > 0].mean() - 1) < 0.01
    assert abs(samples.images[:, 0][samples.targets == 0].mean()) < 0.01


def test_the_canvases_of_each_split_are_made_of_its_own_digits(monkeypatch):
    used = []
    monkeypatch.setattr(segmentation_data, "paste_digits", lambda digits, *_: used.append(digits) or digits)
    splits = segmentation_data.load_splits(make_settings({"task": "segmentation", "seed": 5}, "custom"))
    digits = digits_splits(seed=5)
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(splits, part).images, getattr(digits, part).images)
    assert len(used) == 3


def test_noise_leaves_the_mask_and_the_callers_tensor_alone():
    images, mask = torch.ones(3, 1, 8, 8), torch.ones(3, 8, 8, dtype=torch.int64)
    noisy = segmentation_data.add_noise(NDict({"data.image": images, "data.mask": mask}))
    assert noisy["data.mask"] is mask
    assert torch.equal(images, torch.ones(3, 1, 8, 8))
    assert 0.02 < noisy["data.image"].flatten(1).std(dim=1).mean() < 0.08


def test_batches_hold_the_keys_that_the_task_names_and_ids_that_can_be_found_again():
    settings = make_settings({"batch_size": 7, "max_train_samples": 20}, "custom")
    splits = classification.load_splits(settings)
    batches = list(loaders.make_training_loader(classification, splits.train, settings))
    assert [len(batch["data.label"]) for batch in batches] == [7, 7, 6]
    ids = [sample_id for batch in batches for sample_id in batch["data.sample_id"]]
    assert sorted(ids) == [f"train-{index:04d}" for index in range(20)]
    assert ids != sorted(ids)
    batch = next(iter(loaders.make_evaluation_loader(classification, "test", splits.test, settings)))
    assert batch["data.sample_id"] == [f"test-{index:04d}" for index in range(7)]
    assert np.array_equal(batch["data.image"], splits.test.images[:7])
    assert np.array_equal(batch["data.label"], splits.test.targets[:7])


def test_the_balanced_sampler_draws_a_rare_class_as_often():
    torch.manual_seed(0)
    targets = torch.tensor([0] * 900 + [1] * 100)
    drawn = targets[list(loaders.make_sampler("balanced", targets))]
    assert len(drawn) == 1000
    assert 400 < int(drawn.sum()) < 600
    shuffled = list(loaders.make_sampler("shuffle", targets))
    assert sorted(shuffled) == list(range(1000)) != shuffled
