"""A training that is killed at any moment and resumed equals one that was never interrupted, bit by bit."""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_run.py")
VARIANTS = 15  # of the script
DEEP = os.environ.get("FUSE_DEEP_TESTS") == "1"  # with `nox -t matrix`
# The first variants once; many kills in parts of one variant, which pytest-xdist spreads.
KILLS = int(os.environ.get("FUSE_KILLS") or (1000 if DEEP else 4))
PARTS = 1 if KILLS <= VARIANTS else VARIANTS * -(-KILLS // 300)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings are forked from one process")
@pytest.mark.timeout(300 + 20 * KILLS // PARTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_training_killed_at_random_moments_and_resumed_equals_an_uninterrupted_one(tmp_path, part):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(KILLS), str(part), str(PARTS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280 + 20 * KILLS // PARTS,
        check=False,
    )
    assert (tmp_path / "kills.json").exists(), done.stderr
    results = json.loads((tmp_path / "kills.json").read_text())
    assert [one["number"] for one in results] == list(range(part, KILLS, PARTS))
    assert [one for one in results if one["different"]] == []
    assert len(results) < VARIANTS or any(one["step"] > 0 for one in results)


@pytest.fixture(scope="module")
def kill_run():
    spec = importlib.util.spec_from_file_location("kill_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole_training(kill_run, tmp_path_factory):
    """The folder of a training that is not interrupted; each is run once for all tests."""

    @functools.cache
    def train(**options):
        folder = tmp_path_factory.mktemp("whole")
        kill_run.train(folder, **options)
        return folder

    return train


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"max_epochs": 1}, {"max_epochs": 3}),
        ({"max_epochs": 1}, {"max_epochs": -1, "max_steps": 10}),
        ({"max_epochs": -1, "max_steps": 4}, {"max_epochs": 3}),
        ({"max_epochs": -1, "max_steps": 4}, {"max_epochs": -1, "max_steps": 10}),
        ({"max_epochs": -1, "max_steps": 6}, {"max_epochs": -1, "max_steps": 10}),  # inside an epoch
    ],
)
@pytest.mark.parametrize("options", [{"plateau": "epoch"}, {"validation": False}, {}][: None if DEEP else 1], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_a_training_that_ended_as_planned_goes_on_as_if_it_had_not(
    kill_run, whole_training, tmp_path, first, second, options
):
    kill_run.train(tmp_path, **options, **first)
    kill_run.train(tmp_path, **options, **second)
    assert kill_run.differences(tmp_path, whole_training(**options, **second), ended=False) == []


@pytest.mark.parametrize(
    "options",
    [
        {"plateau": "step", "val_check_interval": 2},
        {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {"plateau": "step", "validation": False, "log_every_n_steps": 1},
        {"log_every_n_steps": 2},
        {"precision": "64-true"},
    ][: None if DEEP else 2],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.filterwarnings("ignore")
def test_a_training_resumed_after_any_step_equals_an_uninterrupted_one(kill_run, tmp_path, options):
    whole = tmp_path / "whole"
    whole.mkdir()
    kill_run.train(whole, max_epochs=2, keep=True, **options)
    kept = list(whole.glob("kept-*.ckpt"))
    assert len(kept) > 1
    for checkpoint in kept:
        parts = tmp_path / checkpoint.stem
        parts.mkdir()
        shutil.copy(checkpoint, parts / "last.ckpt")
        kill_run.train(parts, max_epochs=2, **options)
        (parts / "batches.jsonl").write_text(
            (whole / "batches.jsonl").read_text() + (parts / "batches.jsonl").read_text()
        )
        assert kill_run.differences(parts, whole, ended=False) == [], checkpoint.stem


@pytest.mark.filterwarnings("ignore")
def test_a_training_killed_after_its_last_checkpoint_ends_with_the_mean_weights(kill_run, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    kill_run.train(whole, ema=True, max_epochs=1)
    shutil.copytree(whole, killed)
    (killed / "result.pt").unlink()
    kill_run.train(killed, ema=True, max_epochs=1)
    assert kill_run.differences(killed, whole, ended=True) == []
