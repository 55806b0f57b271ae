"""Runs the installation that a README describes."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

import nox

from tools.environments import fresh_environment, install
from tools.packages import DEFAULT_TORCH, ROOT


def install_commands(readme: str) -> list[str]:
    """The `pip install` lines in the code blocks of a README's section "Install"."""
    section = re.search(r"^## Install\n(.+?)^## ", readme, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```\n(.+?)^```", section[1] if section else "", flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("pip install ")]


def run_documented_install(session: nox.Session, readme: Path) -> None:
    """Run each `pip install` line of a README in a fresh environment, then the README's first example."""
    commands = install_commands(readme.read_text(encoding="utf-8"))
    if not commands:
        session.error(f"{readme} has no 'pip install' line in its section Install")
    for command in commands:
        session.log(command)
        python = fresh_environment(session, "documented")
        install(session, "pip", f"torch=={DEFAULT_TORCH}", python=python)
        torch_version = [python, "-I", "-c", "from importlib.metadata import version; print(version('torch'))"]
        before = session.run(*torch_version, external=True, silent=True)
        with session.chdir(ROOT):
            session.run(python, "-m", *shlex.split(command), "--quiet", external=True)
        if session.run(*torch_version, external=True, silent=True) != before:
            session.error(f"'{command}' replaced torch {before}")
        with session.chdir(tempfile.gettempdir()):
            session.run(python, "-I", str(ROOT / "tools" / "run_examples.py"), "--first", str(readme), external=True)
