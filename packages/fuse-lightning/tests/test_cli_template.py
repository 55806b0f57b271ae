"""`fuse-lightning template` writes a project that runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuse_lightning.cli.main import main


@pytest.mark.parametrize("style", ["ready-made", "custom"])
def test_the_template_is_written_and_what_to_run_next_is_told(tmp_path, capsys, style):
    assert main(["template", str(tmp_path / "mine"), "--style", style]) == 0
    printed = capsys.readouterr().out
    assert "python run.py" in printed
    assert f"cd {tmp_path / 'mine'}" in printed
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"run.py", f"module_{style.replace('-', '_')}.py"} <= names


def test_the_project_runs(tmp_path):
    pytest.importorskip("sklearn")
    main(["template", str(tmp_path)])
    tiny = ["--epochs", "1", "--max-train-samples", "64", "--accelerator", "cpu", "--run-dir", "out"]
    done = subprocess.run(
        [sys.executable, "run.py", "--stages", "train", "infer", *[*tiny]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "predictions.csv").is_file()


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["template", str(tmp_path)]) == 1
    assert "is not empty, and nothing there is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_its_place_is_refused(tmp_path, capsys):
    Path(tmp_path / "file").write_text("mine")
    assert main(["template", str(tmp_path / "file")]) == 1
    assert "is a file" in capsys.readouterr().err


def test_an_unknown_style_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_request:
        main(["template", str(tmp_path), "--style", "fancy"])
    assert exit_request.value.code == 2
    assert "'ready-made', 'custom'" in capsys.readouterr().err
