import json
import logging
import os
import re
import runpy
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from sklearn.datasets import load_digits

from fuse_core import WiringError
from fuse_lightning import walkthrough
from fuse_lightning.walkthrough.__main__ import main
from fuse_lightning.walkthrough.template import classification, module_custom, module_ready_made, segmentation_data
from fuse_lightning.walkthrough.template.figures import read_learning_curves
from fuse_lightning.walkthrough.template.loaders import make_evaluation_loader
from fuse_lightning.walkthrough.template.settings import make_settings
from fuse_lightning.walkthrough.template.training import make_trainer

QUICK = ["--accelerator", "cpu", "--epochs", "2", "--max-train-samples", "320"]
WRITTEN = {
    "config.yaml",
    "confusion_matrix.png",
    "evaluation.json",
    "index.html",
    "learning_curves.csv",
    "learning_curves.png",
    "model/best_epoch.ckpt",
    "model/last.ckpt",
    "predictions.csv",
    "report.json",
    "wiring.md",
}


def run(*arguments):
    main([str(argument) for argument in arguments])


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sections(folder):
    return re.findall("<h2>(.*?)</h2>", (folder / "index.html").read_text())


@pytest.fixture
def few_canvases(monkeypatch):
    monkeypatch.setattr(segmentation_data, "CANVASES", {"train": 64, "validation": 16, "test": 12})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run of two epochs, not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run("--run-dir", folder, *QUICK)
    return folder


@pytest.mark.parametrize("optimizer", ["adam", "sam"])
def test_it_learns_in_three_epochs(tmp_path, capsys, optimizer):
    run("--run-dir", tmp_path / "run", "--optimizer", optimizer, "--epochs", 3)
    output = capsys.readouterr().out
    assert float(re.search(r"test accuracy: ([\d.]+)", output)[1]) > 0.9
    assert f"run folder: {tmp_path / 'run'}" in output


def test_a_run_repeats_itself(tmp_path, finished_run):
    run("--run-dir", tmp_path / "run", *QUICK, "--stages", "train", "infer")
    for file in ("predictions.csv", "wiring.md", "logs/csv/version_0/metrics.csv"):
        assert (tmp_path / "run" / file).read_text() == (finished_run / file).read_text()


@pytest.mark.parametrize("optimizer", ["adam", "sam"])
def test_both_styles_train_alike(tmp_path, optimizer):
    for style in ("ready-made", "custom"):
        run("--run-dir", tmp_path / style, "--style", style, "--optimizer", optimizer, *QUICK, "--stages", "train")
    curves = [read_learning_curves(tmp_path / style) for style in ("ready-made", "custom")]
    by_epoch = [name for name in curves[0] if not name.endswith("_step")]  # steps are logged by the ready-made one
    logged = sorted(name for name in by_epoch if name.startswith(("train.", "validation.")))
    assert logged == [
        "train.losses.cross_entropy",
        "train.losses.total_loss",
        "train.metrics.accuracy",
        "validation.losses.cross_entropy",
        "validation.losses.total_loss",
        "validation.metrics.accuracy",
    ]
    pd.testing.assert_frame_equal(curves[0][logged], curves[1][logged], rtol=1e-5)


def test_advice_on_other_products_is_not_shown(tmp_path, caplog):
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    caplog.set_level(logging.INFO, logger.name)  # the command line lowers it
    logger.addHandler(caplog.handler)
    try:
        make_trainer(make_settings({"accelerator": "cpu"}, "custom"), tmp_path, logger=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert "GPU available" in caplog.text
    assert "Tip: " not in caplog.text


def test_both_styles_test_alike(tmp_path):
    settings = make_settings({}, "custom")
    splits = classification.load_splits(settings)
    loader = make_evaluation_loader(classification, "test", splits.test, settings)
    model = classification.make_model(splits)
    tested = []
    for style in (module_ready_made, module_custom):
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        module = style.make_module(classification, model, settings, tmp_path)
        tested += trainer.test(module, loader, verbose=False)
    assert set(tested[0]) == {"test.losses.cross_entropy", "test.losses.total_loss", "test.metrics.accuracy"}
    assert tested[0] == pytest.approx(tested[1])


def test_a_run_folder_holds_all_results(finished_run):
    files = files_of(finished_run)
    assert files >= WRITTEN | {"worst_classified.png", "model/model.safetensors", "logs/csv/version_0/metrics.csv"}
    assert any(re.fullmatch(r"logs/tensorboard/version_0/events\.out\.tfevents\..+", file) for file in files)
    assert any(re.fullmatch(r"model/epoch_summary_.+\.txt", file) for file in files)
    for picture in finished_run.glob("*.png"):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_predictions_name_each_test_image_once_with_its_probabilities(finished_run):
    table = pd.read_csv(finished_run / "predictions.csv")
    assert list(table["data.sample_id"]) == [f"test-{index:04d}" for index in range(360)]
    probabilities = table[[f"model.output.digit.{digit}" for digit in range(10)]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(axis=1), table["predicted"])
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation["score"] == pytest.approx((table["predicted"] == table["data.label"]).mean())


def test_the_config_says_what_was_run(finished_run):
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["settings"] == {
        "task": "classification",
        "style": "ready-made",
        "epochs": 2,
        "learning_rate": 0.002,
        "batch_size": 32,
        "optimizer": "adam",
        "sampler": "shuffle",
        "seed": 0,
        "accelerator": "cpu",
        "data_dir": None,
        "max_train_samples": 320,
    }
    assert config["versions"]["torch"] == torch.__version__


def test_the_wiring_is_a_table_and_a_drawing(finished_run):
    text = (finished_run / "wiring.md").read_text()
    readers = ("LossDefault 'losses.cross_entropy'", "MetricDefault 'metrics.accuracy'")
    assert f"| data.label | the batch | {', '.join(readers)}, step_extract_predictions 'prediction_keys' |" in text
    assert re.search(r"```mermaid\nflowchart LR\n.*```\n$", text, flags=re.DOTALL)


def test_segmentation_writes_masks_that_its_numbers_come_from(tmp_path, few_canvases):
    run("--task", "segmentation", "--run-dir", tmp_path / "run", "--style", "custom", "--epochs", 1)
    assert files_of(tmp_path / "run") >= WRITTEN | {"overlays.png", "worst_segmented.png", "predicted_masks.npz"}
    masks = np.load(tmp_path / "run" / "predicted_masks.npz")
    assert masks["predicted"].shape == masks["true"].shape == (12, 32, 32)
    assert list(masks["sample_id"]) == [f"test-{index:04d}" for index in range(12)]
    dice = []
    for digit in range(1, 11):
        predicted, true = masks["predicted"] == digit, masks["true"] == digit
        if predicted.any() or true.any():
            dice.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["score"] == pytest.approx(np.mean(dice))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table["data.sample_id"]) == list(masks["sample_id"])
    digits = [" ".join(str(index - 1) for index in np.unique(mask)[1:]) for mask in masks["true"]]
    assert [str(text) for text in table["true_digits"]] == digits


def test_stages_run_one_by_one_as_they_do_together(tmp_path, finished_run):
    folder = tmp_path / "run"
    run("--run-dir", folder, *QUICK, "--stages", "train")
    assert not (folder / "predictions.csv").exists()
    assert sections(folder) == ["Learning curves", "Epochs", "Wiring", "Environment"]
    run("--run-dir", folder, "--stages", "infer")
    assert (folder / "predictions.csv").read_text() == (finished_run / "predictions.csv").read_text()
    assert not (folder / "evaluation.json").exists()
    run("--run-dir", folder, "--stages", "eval")
    assert (folder / "evaluation.json").read_text() == (finished_run / "evaluation.json").read_text()
    assert sections(folder) == sections(finished_run)


def test_stages_that_lack_what_comes_before_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"give its --run-dir\. There is none in runs: train first"):
        run("--stages", "infer", "eval")
    with pytest.raises(SystemExit, match=r"error: .*nothing is no run folder: .* Train first"):
        run("--stages", "eval", "--run-dir", tmp_path / "nothing")
    run("--run-dir", "runs/one", *QUICK, "--stages", "train")
    with pytest.raises(SystemExit, match=r"give its --run-dir\. The newest is runs.one"):
        run("--resume")
    with pytest.raises(SystemExit, match=r"one has no predictions\.csv to evaluate\. Use --stages infer eval"):
        run("--stages", "eval", "--run-dir", "runs/one")
    (tmp_path / "runs" / "one" / "model" / "best_epoch.ckpt").unlink()
    with pytest.raises(SystemExit, match=r"has no model/best_epoch\.ckpt to predict with\. Train first"):
        run("--stages", "infer", "--run-dir", "runs/one")


def test_settings_of_a_run_that_exists_cannot_be_others(finished_run):
    with pytest.raises(SystemExit, match=r"was started with --batch-size 32, got --batch-size 64\. Give the same"):
        run("--stages", "eval", "--run-dir", finished_run, "--batch-size", 64)
    with pytest.raises(SystemExit, match=r"was started with --style ready-made, got --style custom"):
        run("--resume", "--run-dir", finished_run, "--style", "custom")


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Has Ctrl-C pressed in the middle of an epoch, as the terminal does it: by a signal."""
    fit = pl.Trainer.fit

    def in_epoch(epoch):
        class PressCtrlC(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if (trainer.current_epoch, batch_idx) == (epoch, 5):
                    os.kill(os.getpid(), signal.SIGINT)

        def interrupted_fit(trainer, *arguments, **named):
            trainer.callbacks.append(PressCtrlC())
            fit(trainer, *arguments, **named)

        monkeypatch.setattr(pl.Trainer, "fit", interrupted_fit)

    return in_epoch


@pytest.mark.parametrize("epoch", [0, 1])
def test_ctrl_c_leaves_a_run_that_is_resumed_to_the_same_result(
    tmp_path, monkeypatch, capsys, finished_run, press_ctrl_c, epoch
):
    folder = tmp_path / "run"
    press_ctrl_c(epoch)
    message = f"interrupted. To continue: python -m fuse_lightning.walkthrough --resume --run-dir {folder}"
    with pytest.raises(SystemExit) as ending:
        run("--run-dir", folder, *QUICK)
    assert ending.value.code == 130
    assert message in capsys.readouterr().err
    checkpoint = torch.load(folder / "model" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == epoch * 10
    assert not (folder / "predictions.csv").exists()
    assert (folder / "index.html").exists() == (epoch > 0)  # the page of the epochs before

    monkeypatch.undo()
    run("--resume", "--run-dir", folder, "--stages", "train", "infer")
    curves, uninterrupted = (read_learning_curves(one) for one in (folder, finished_run))
    assert list(curves.index) == [0, 1]
    pd.testing.assert_frame_equal(curves, uninterrupted, check_like=True)
    assert (folder / "predictions.csv").read_text() == (finished_run / "predictions.csv").read_text()


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch, press_ctrl_c):
    save = torch.save

    class PressedInWrite:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            os.kill(os.getpid(), signal.SIGINT)
            return self.file.write(content)

    def interrupted_save(checkpoint, file):
        save(checkpoint, PressedInWrite(file) if checkpoint["global_step"] == 20 else file)

    monkeypatch.setattr(torch, "save", interrupted_save)
    with pytest.raises(SystemExit) as ending:
        run("--run-dir", tmp_path / "run", *QUICK, "--stages", "train")
    assert ending.value.code == 130
    assert torch.load(tmp_path / "run" / "model" / "last.ckpt", weights_only=True)["global_step"] == 10
    assert {path.name for path in (tmp_path / "run" / "model").glob("*.ckpt")} == {"best_epoch.ckpt", "last.ckpt"}


def test_ctrl_c_while_predicting_ends_as_in_training(finished_run, monkeypatch, capsys, press_ctrl_c):
    def press(backbone, images):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(classification.SmallBackbone, "forward", press)
    with pytest.raises(SystemExit) as ending:
        run("--stages", "infer", "--run-dir", finished_run)
    assert ending.value.code == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_a_run_is_not_overwritten_unasked(finished_run):
    before = files_of(finished_run)
    with pytest.raises(SystemExit, match=r"holds a run already\. Choose another .* add --resume .* --overwrite"):
        run("--run-dir", finished_run, *QUICK)
    assert files_of(finished_run) == before


def test_overwriting_deletes_the_results_of_a_run_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    run("--run-dir", folder, *QUICK, "--stages", "train", "infer")
    (folder / "index.html").write_text("of the run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.ckpt").write_text("another's")
    for name in ("notes.txt", "model/mine.ckpt", "figures/mine.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to(elsewhere)
    (folder / "logs" / "csv" / "version_7").symlink_to(elsewhere)
    (elsewhere / "metrics.csv").write_text("another's")
    run("--run-dir", folder, *QUICK, "--stages", "train", "--overwrite")
    files = files_of(folder)
    assert files >= {"notes.txt", "model/mine.ckpt", "figures/mine.png", "model/last.ckpt", "config.yaml"}
    assert not files & {"predictions.csv", "logs/csv/version_1/metrics.csv"}
    assert "of the run" not in (folder / "index.html").read_text()
    assert (folder / "empty").is_dir()
    assert (folder / "link").is_symlink()
    assert files_of(elsewhere) == {"model.ckpt", "metrics.csv"}


def test_a_misspelled_key_stops_before_anything_is_written_or_overwritten(tmp_path, finished_run, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    monkeypatch.setattr(classification, "PREDICTION_KEYS", ["model.output.digt"])
    with pytest.raises(WiringError, match=r"reads 'model.output.digt'.* Nearest keys: 'model.output.digit'"):
        run("--run-dir", folder, "--overwrite", *QUICK)
    assert files_of(folder) == files_of(finished_run)
    with pytest.raises(WiringError, match=r"reads 'model.output.digt'"):
        run("--run-dir", tmp_path / "new", *QUICK)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("config", [None, "settings: {task: classification}\n", "- a list\n", "{\n", b"\xff\xfe"])
def test_a_folder_that_is_no_run_folder_is_never_overwritten(tmp_path, config):
    (tmp_path / "predictions.csv").write_text("somebody's")
    if config is not None:
        (tmp_path / "config.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in ([], ["--overwrite"]):
        with pytest.raises(SystemExit, match="is not empty and not the folder of a run"):
            run("--run-dir", tmp_path, *arguments)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(SystemExit, match=r"error: Nothing can be written to .*sub: .* Choose another --run-dir"):
        run("--run-dir", tmp_path / "predictions.csv" / "sub")
    with pytest.raises(SystemExit, match="is a file"):
        run("--run-dir", tmp_path / "predictions.csv", "--overwrite")


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU, so asking for one is right"
)
def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(SystemExit, match=r"gpu was asked for, but torch .* finds no GPU\. Use .*cpu or auto"):
        run("--run-dir", tmp_path / "run", "--accelerator", "gpu")
    assert not (tmp_path / "run").exists()


def test_it_trains_on_mnists_files(tmp_path, capsys):
    # The 8 x 8 digits, larger, in MNIST's own format.
    digits = load_digits()
    for part, chosen in (("train", np.s_[:600]), ("t10k", np.s_[600:660])):
        images, labels = np.kron(digits.images[chosen] * 15, np.ones((2, 2))), digits.target[chosen]
        for file, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes()
            (tmp_path / file).write_bytes(header + array.astype(np.uint8).tobytes())
    run("--data-dir", tmp_path, "--run-dir", tmp_path / "run", "--epochs", 2)
    assert float(re.search(r"test accuracy: ([\d.]+)", capsys.readouterr().out)[1]) > 0.4
    with pytest.raises(SystemExit, match=r"error: --data-dir is for --task classification"):
        run("--task", "segmentation", "--data-dir", tmp_path)


def test_a_missing_data_folder_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(SystemExit, match="error: --data-dir needs the four MNIST IDX files"):
        run("--data-dir", tmp_path / "nothing", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be above 0, got 0"),
        (["--batch-size", "-3"], "must be above 0, got -3"),
        (["--learning-rate", "nan"], "must be above 0, got nan"),
        (["--seed", "-5"], "must be from 0 to 4294967295, got -5"),
        (["--epochs", "many"], "invalid int value: 'many'"),
        (["--resume", "--overwrite"], "not with --overwrite"),
        (["--stages", "eval", "--overwrite"], "not without the stage train"),
        (["--stages", "eval", "--resume"], "nor without the stage train"),
        (["--style", "baroque"], "invalid choice: 'baroque'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_a_score_below_the_one_asked_for_is_a_failure(finished_run):
    with pytest.raises(SystemExit, match=r"error: the test accuracy 0\.\d+ is below --min-score 1\.1"):
        run("--stages", "eval", "--run-dir", finished_run, "--min-score", "1.1")


def test_it_can_be_called_by_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["walkthrough", "--help"])
    monkeypatch.delitem(sys.modules, "fuse_lightning.walkthrough.__main__")  # imported above, and run anew here
    with pytest.raises(SystemExit):
        runpy.run_module("fuse_lightning.walkthrough", run_name="__main__")
    help_text = capsys.readouterr().out
    assert "--data-dir" in help_text
    assert "--style {ready-made,custom}" in help_text


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fuse_lightning.walkthrough.template")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(walkthrough, "template")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r'needs sklearn\.datasets: pip install "fuse-lightning\[walkthrough\]"'):
        run("--epochs", 1)
