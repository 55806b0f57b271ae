"""The entry point: help, version, usage, and the installed program."""

import runpy
import sys

import pytest

from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")


def test_help_is_short_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 40
    for command in ("fit", "validate", "test", "predict", "check", "template"):
        assert command in printed
        assert main([command, "--help"]) == 0
        assert f"fuse-lightning {command}" in (own := capsys.readouterr().out)
        assert len(own.splitlines()) < 40


def test_every_option_is_listed_on_demand(project, capsys):
    with pytest.raises(SystemExit) as exit_request:
        main(["fit", "--help_all"])
    assert exit_request.value.code == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_wrong_usage_exits_with_2(capsys):
    assert main([]) == 2
    assert main(["fitt"]) == 2
    assert "there is no command 'fitt'. Did you mean 'fit'?" in capsys.readouterr().err
    assert main(["fit"]) == 2
    assert "needs a configuration" in capsys.readouterr().err
    assert main(["fit", "my run.yaml"]) == 2
    assert "fuse-lightning fit --config 'my run.yaml'. To start" in capsys.readouterr().err
    assert main(["fit", "--trainer.max_epochs", "1", "--config"]) == 2
    assert "--config needs the configuration's path" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jsonargparse" else find_spec(name))
    assert main(["fit", "--config", "run.yaml"]) == 2
    assert 'pip install "fuse-lightning[cli]"' in capsys.readouterr().err


def test_the_installed_module_runs_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuse-lightning", "--version"])
    with pytest.raises(SystemExit) as exit_request:
        runpy.run_module("fuse_lightning.cli", run_name="__main__")
    assert exit_request.value.code == 0
    assert capsys.readouterr().out.startswith("fuse-lightning 0.")
