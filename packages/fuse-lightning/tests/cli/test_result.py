"""`result.json`: the best epoch for programs that compare runs."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # where a run folder was copied


def test_the_result_is_written_for_programs(trained, capsys, run_command):
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "validation.losses.total_loss"
    assert result["mode"] == "min"
    best = torch.load("run/best_epoch.ckpt", weights_only=True)
    assert result["epoch"] == best["epoch"]
    assert Path(result["checkpoint"]).name == "best_epoch.ckpt"
    assert run_command("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert f"best validation.losses.total_loss: {result['value']:.6g}, epoch {result['epoch']}, " in (
        capsys.readouterr().out
    )
