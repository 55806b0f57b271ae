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
