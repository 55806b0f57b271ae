import ast
import re
import runpy
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from fuse_lightning import __version__
from fuse_lightning.walkthrough.files import STYLES, template_files


@pytest.fixture
def run_project(tmp_path, monkeypatch):
    """Writes a project and runs it as `python run.py` does."""
    before = set(sys.modules)
    project = tmp_path / "project"
    project.mkdir()

    def run(style, *arguments):
        for name, text in template_files(style).items():
            (project / name).write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(project)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        runpy.run_path(str(project / "run.py"), run_name="__main__")

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(project)):
            del sys.modules[name]


@pytest.mark.parametrize("style", STYLES)
def test_a_project_runs_where_it_is_copied_to(tmp_path, capsys, run_project, style):
    run_dir = tmp_path / "run"
    run_project(style, "--run-dir", str(run_dir), "--accelerator", "cpu", "--epochs", "1", "--max-train-samples", "96")
    assert re.search(r"test accuracy: 0\.\d{4}\nrun folder: .*run\n$", capsys.readouterr().out)
    assert sys.modules["training"].__file__ == str(tmp_path / "project" / "training.py")
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["settings"]["style"] == style
    assert (run_dir / "index.html").read_text().count(
        'src="data:image/png;base64,'
    ) == 24  # the worst-classified images


@pytest.mark.parametrize("style", STYLES)
def test_a_project_has_one_module_and_no_import_from_the_walkthrough(style):
    files = template_files(style)
    module = f"module_{style.replace('-', '_')}"
    assert [name for name in files if name.startswith("module_")] == [f"{module}.py"]
    assert f"`{module}.py`" in files["README.md"]
    assert "__init__.py" not in files
    other = next(f"module_{one.replace('-', '_')}" for one in STYLES if one != style)
    for name, text in files.items():
        assert other not in text, name
        assert "walkthrough" not in text or name in ("requirements.txt", "settings.py"), name
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name} line {node.lineno}"


def test_a_project_requires_a_range_that_holds_this_version():
    (requirement,) = map(Requirement, template_files("ready-made")["requirements.txt"].split())
    assert requirement.specifier.contains(__version__, prereleases=True)


def test_the_readme_tells_of_every_file():
    files = template_files("ready-made")
    assert set(re.findall(r"`([a-z_]+\.py)`", files["README.md"])) == {name for name in files if name.endswith(".py")}


def test_a_style_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"template_files\(style=\) is one of 'ready-made', 'custom', got 'baroque'"):
        template_files("baroque")
