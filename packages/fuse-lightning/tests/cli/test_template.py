"""`fuse-lightning template` writes a project that runs."""

import runpy
import sys
from pathlib import Path

import pytest

from fuse_lightning.cli.main import main


@pytest.mark.parametrize("style", ["ready-made", "custom"])
def test_the_template_is_written_and_what_to_run_next_is_told(tmp_path, capsys, style):
    assert main(["template", str(tmp_path / "my digits"), "--style", style]) == 0
    printed = capsys.readouterr().out
    assert "python run.py" in printed
    assert f"cd '{tmp_path / 'my digits'}'" in printed
    names = {path.name for path in (tmp_path / "my digits").iterdir()}
    assert {"run.py", f"module_{style.replace('-', '_')}.py"} <= names


@pytest.mark.filterwarnings("ignore")  # as the project is run: warnings are no errors there
@pytest.mark.parametrize("style", ["ready-made", "custom"])
def test_the_project_runs(tmp_path, monkeypatch, style):
    pytest.importorskip("sklearn")
    main(["template", str(tmp_path), "--style", style])
    tiny = ["--epochs", "1", "--max-train-samples", "64", "--accelerator", "cpu", "--run-dir", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # what `python run.py` does
    monkeypatch.setattr(sys, "argv", ["run.py", "--stages", "train", "infer", *tiny])
    try:
        runpy.run_path("run.py", run_name="__main__")
    finally:  # each project has modules of the same names
        for name in [path.stem for path in tmp_path.glob("*.py")]:
            sys.modules.pop(name, None)
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
