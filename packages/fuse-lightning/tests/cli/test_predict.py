"""`fuse-lightning predict`."""

from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied


def test_predictions_are_not_overwritten_unasked(trained, capsys, run_command):
    Path("run/predictions.csv").write_text("mine")
    assert run_command("predict") == 1
    assert "run/predictions.csv exists already" in capsys.readouterr().err
    assert run_command("predict", "--overwrite") == 0


def test_prediction_keys_that_are_not_set_are_asked_for(edited, capsys, run_command):
    edited("model.init_args.prediction_keys", None)
    assert run_command("predict", "--ckpt_path", "untrained") == 2
    assert "prediction_keys: predict needs a list of the keys to write. The model writes: model.logits.side" in (
        capsys.readouterr().err
    )
    assert not list(Path().rglob("predictions*"))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_told_with_the_file_of_the_predictions(trained, capsys, run_command):
    assert run_command("predict", "--data.init_args.test.init_args.count", "3000") == 1
    printed = capsys.readouterr().err
    assert "error: the predictions cannot be written to run/predictions.csv: File too large. Make room." in printed
    assert not list(Path("run").glob(".predictions*"))
