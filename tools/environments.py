"""Build a package, install it, check what was installed, run its tests. uv makes and fills the environments."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

from tools.lower_bounds import wrong_versions
from tools.packages import PACKAGES, ROOT, Package

XDIST = "pytest-xdist>=3.6"  # runs tests in several processes


@functools.cache
def uv_find_links() -> str:
    """Where pip is configured to find wheels, for uv, which does not read pip's configuration."""
    links = [link for link in os.environ.get("UV_FIND_LINKS", "").split(",") if link]
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listing.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.endswith(".find-links"):
            links += ast.literal_eval(value).split()
    return ",".join(dict.fromkeys(links))


def install(session: nox.Session, *arguments: str, python: str | None = None) -> None:
    """Install into the session's environment, or that of the interpreter `python`."""
    target = ["--python", python] if python else []
    run_uv(session, "pip", "install", *target, *arguments)


def run_uv(session: nox.Session, *arguments: str) -> None:
    """Run uv, which finds wheels where pip finds them."""
    environment = {"UV_FIND_LINKS": links} if (links := uv_find_links()) else {}
    session.run_install("uv", *arguments, "--quiet", env=environment)


def install_package(
    session: nox.Session,
    package: Package,
    extras: list[str],
    *requirements: str,
    packages: dict[str, Package] = PACKAGES,
    kind: str = "wheel",
    python: str | None = None,
    cached: bool = True,
) -> None:
    """Build a package and the siblings that it needs, and install them with what they declare.

    Args:
        session: The nox session.
        package: The package.
        extras: Its extras to install.
        *requirements: Further requirements.
        packages: Where the siblings come from, by name.
        kind: `wheel` or `sdist`.
        python: The interpreter of another environment than the session's.
        cached: Whether files of earlier installations may be used.
    """
    folder = Path(session.create_tmp()).resolve() / kind
    needed = [package, *package.needs(extras, packages)]
    local = [build_distribution(session, one, kind, folder) for one in needed]
    local[0] += f"[{','.join(extras)}]" if extras else ""
    # A version is built many times before it is released.
    again = [f"--reinstall-package={one.name}" for one in needed] if cached else ["--no-cache"]
    install(session, *again, *local, *requirements, python=python)


def build_distribution(session: nox.Session, package: Package, kind: str, folder: Path) -> str:
    """Build a package's wheel or sdist into a folder; returns the file's path."""
    run_uv(session, "build", f"--{kind}", "--out-dir", str(folder), str(package.folder))
    suffix = "-py3-none-any.whl" if kind == "wheel" else ".tar.gz"
    return str(folder / f"{package.import_name}-{package.version}{suffix}")


def fresh_environment(session: nox.Session, name: str) -> str:
    """A new environment beside the session's own; returns its interpreter."""
    folder = Path(session.create_tmp()).resolve() / f"{name}-environment"
    interpreter = f"{session.virtualenv.bin}/python"
    run_uv(session, "venv", "--clear", "--python", interpreter, str(folder))
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def check_installation(session: nox.Session, package: Package, *arguments: str) -> None:
    """Check what is installed; see tools/check_installation.py."""
    session.run("python", "-I", str(ROOT / "tools" / "check_installation.py"), package.name, *arguments)


def check_versions(session: nox.Session, pinned: list[Requirement], python: str) -> None:
    """Stop the session where another version is installed than pinned."""
    listing = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(session.run(python, "-I", "-c", listing, silent=True, external=True))
    if wrong := wrong_versions(pinned, installed):
        session.error("; ".join(wrong))
    session.log("installed: " + ", ".join(map(str, pinned)))


def run_tests(
    session: nox.Session,
    package: Package,
    *arguments: str,
    python: str = "python",
    folder: Path | None = None,
    deep: bool = False,
) -> None:
    """Run a package's tests and the doctests of the installed package, in as many processes as there are cores.

    The tests of one file run in one process, because they share what is costly. `-- -n 0` runs all in one.

    Args:
        session: The nox session.
        package: The package.
        *arguments: Further arguments for pytest.
        python: The interpreter of another environment than the session's.
        folder: The folder that holds `tests` and pyproject.toml; the package's by default.
        deep: Whether property tests try many more examples.
    """
    # The tests' tensors are small: a second thread costs more than it gives.
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if deep:
        environment["FUSE_DEEP_TESTS"] = "1"
    external = python != "python"
    if external:
        environment["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    install(session, XDIST, python=python if external else None)
    command = [python, "-P", "-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
    command += ["--doctest-modules", "--pyargs", package.import_name, "tests"]
    with session.chdir(folder or package.folder):
        session.run(*command, *arguments, env=environment, external=external)
