import gzip
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from fuse_core import NDict
from fuse_lightning.walkthrough.__main__ import main, prepare_run_dir
from fuse_lightning.walkthrough.data import digits_splits, mnist_splits, read_idx, shift_randomly
from fuse_lightning.walkthrough.network import LeNet

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
    assert [len(labels) for _, labels in parts] == [1077, 360, 360]
    for images, labels in parts:
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
        assert np.bincount(labels).min() >= 0.09 * len(labels)
    assert len({image.tobytes() for images, _ in parts for image in images}) == 1797


def test_the_split_depends_on_the_seed_alone():
    assert np.array_equal(digits_splits(3).test[0], digits_splits(3).test[0])
    assert not np.array_equal(digits_splits(3).test[0], digits_splits(4).test[0])


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


@pytest.mark.parametrize("optimizer", ["adam", "sam"])
def test_it_learns_and_repeats_itself(tmp_path, capsys, optimizer):
    predictions = []
    for run in ("first", "second"):
        main(["--run-dir", str(tmp_path / run), "--epochs", "4", "--optimizer", optimizer])
        output = capsys.readouterr().out
        assert float(re.search(r"test accuracy: ([\d.]+)", output)[1]) > 0.93
        assert f"run folder: {tmp_path / run}" in output
        assert "current epoch (3)" in output
        predictions.append((tmp_path / run / "predictions.csv").read_text())
    assert predictions[0] == predictions[1]
    written = {path.name for path in (tmp_path / "first").iterdir()}
    assert written >= {
        "best_epoch.ckpt",
        "last.ckpt",
        "metrics.csv",
        "predictions.csv",
        "epoch_summary_validation.losses.total_loss.txt",
        "learning_curves.png",
        "confusion_matrix.png",
    }
    header, *rows = predictions[0].splitlines()
    assert header.startswith("data.sample_id,model.output.digit.0,")
    assert len(rows) == 360


@pytest.mark.parametrize("compress", [False, True])
def test_it_trains_on_mnists_files(tmp_path, capsys, compress):
    write_mnist(tmp_path, compress)
    main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), "--epochs", "3"])
    assert float(re.search(r"test accuracy: ([\d.]+)", capsys.readouterr().out)[1]) > 0.95


def test_mnist_keeps_its_own_test_set(tmp_path):
    write_mnist(tmp_path, compress=False)
    splits = mnist_splits(tmp_path, seed=0)
    assert [len(part[0]) for part in (splits.train, splits.validation, splits.test)] == [360, 40, 100]
    assert splits.image_size == 28


def test_missing_files_are_listed(tmp_path):
    write_mnist(tmp_path, compress=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(SystemExit) as info:
        main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run")])
    message = str(info.value)
    assert message.startswith(
        f"error: --data-dir needs the four MNIST IDX files. In {tmp_path} none of these was found:"
    )
    assert "test labels: t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte.gz, t10k-labels.idx1-ubyte," in message
    assert "train images" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "is no IDX file"),
        (b"\x00\x00\x08\x03\x00", "is no IDX file"),
        (gzip.compress(b"12345678")[:-9], "cannot be decompressed"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", r"says it holds \(5,\) bytes, but 2 bytes"),
    ],
)
def test_files_that_are_no_idx_are_rejected(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_a_run_folder_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "precious.txt").write_text("results")
    with pytest.raises(SystemExit, match=r"exists and is not empty\. Choose another --run-dir, or add --overwrite"):
        main(["--run-dir", str(tmp_path)])
    assert (tmp_path / "precious.txt").exists()


def test_overwriting_deletes_the_results_of_a_run_and_nothing_else(tmp_path):
    for name in ("precious.txt", "train-images-idx3-ubyte", "metrics.csv", "last.ckpt"):
        (tmp_path / name).write_text("content")
    prepare_run_dir(tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"precious.txt", "train-images-idx3-ubyte"}
    with pytest.raises(FileExistsError, match="is a file"):
        prepare_run_dir(tmp_path / "precious.txt", overwrite=True)


@pytest.mark.parametrize("argument", ["--epochs", "--batch-size", "--learning-rate"])
def test_numbers_must_be_positive(argument, capsys):
    with pytest.raises(SystemExit):
        main([argument, "0"])
    assert "must be above 0, got 0" in capsys.readouterr().err


def test_an_accuracy_below_the_one_asked_for_is_a_failure(tmp_path):
    with pytest.raises(SystemExit, match=r"error: the test accuracy 0\.\d+ is below --min-accuracy 1\.1"):
        main(["--run-dir", str(tmp_path), "--epochs", "1", "--min-accuracy", "1.1"])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("train", lambda images, labels: (images[:, :, :20], labels), "square images"),
        ("test", lambda images, labels: (images[:, :20, :20], labels), "of one even size in all files"),
        ("train", lambda images, labels: (images[:-1], labels), "as many labels"),
        ("test", lambda images, labels: (images, labels + 5), "digits from 0 to 9"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_rejected(tmp_path, part, change, message):
    write_mnist(tmp_path, compress=False)
    paths = [tmp_path / name for name in IDX_NAMES[part]]
    for path, array in zip(paths, change(*map(read_idx, paths)), strict=True):
        path.write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=message):
        mnist_splits(tmp_path, seed=0)


def test_the_network_takes_even_sizes_only():
    with pytest.raises(ValueError, match="image_size must be even, got 7"):
        LeNet(7)


def test_it_can_be_called_by_name():
    command = [sys.executable, "-I", "-m", "fuse_lightning.walkthrough", "--help"]
    assert "--data-dir" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
