"""Builds, checks and tests the packages: `nox` for the everyday checks, `nox -l` for everything.

The packages, and which of them needs which, are read from `packages/*/pyproject.toml`. What is tested is always the
built wheel in an environment of its own, never the source tree.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"

ROOT = Path(__file__).parent.resolve()
TORCH_VERSIONS = ("2.6.0", "2.13.0", "2.15.0")
DEFAULT_TORCH = "2.13.0"
RUFF = "ruff==0.17.6"


@dataclass(frozen=True)
class Package:
    """One of the packages, as its pyproject.toml describes it."""

    folder: Path
    pyproject: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's name, such as `fuse-losses`."""
        return self.pyproject["project"]["name"]

    @property
    def short_name(self) -> str:
        """What sessions are called by, such as `losses`: it can be typed in nox's expressions."""
        return self.name.removeprefix("fuse-").replace("-", "_")

    @property
    def import_name(self) -> str:
        """The module's name, such as `fuse_losses`."""
        return self.name.replace("-", "_")

    @property
    def extras(self) -> list[str]:
        """All optional extras."""
        return sorted(self.pyproject["project"].get("optional-dependencies", {}))

    @property
    def test_extras(self) -> list[str]:
        """The extras that its tests need, as `hatch test` installs them."""
        return self.pyproject["tool"]["hatch"]["envs"]["hatch-test"].get("features", [])

    def group(self, name: str) -> list[str]:
        """The requirements of a dependency group; none where the package has no such group."""
        has_group = name in self.pyproject.get("dependency-groups", {})
        return list(nox.project.dependency_groups(self.pyproject, name)) if has_group else []

    def siblings(self, extras: list[str]) -> list[Package]:
        """The other packages that it needs with these extras, directly or not."""
        project = self.pyproject["project"]
        requirements = [*project["dependencies"]]
        for extra in extras:
            requirements += project["optional-dependencies"][extra]
        found: dict[str, Package] = {}
        for requirement in map(Requirement, requirements):
            sibling = PACKAGES.get(canonicalize_name(requirement.name))
            if sibling is not None:
                for package in (sibling, *sibling.siblings(sorted(requirement.extras))):
                    found[package.name] = package
        return list(found.values())


PACKAGES = {
    package.name: package
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
    for package in [Package(path.parent, nox.project.load_toml(path))]
}


def torch_id(version: str) -> str:
    """`torch2_13` for 2.13.0."""
    return "torch" + "_".join(version.split(".")[:2])


BENCHMARKS = sorted(ROOT.glob("benchmarks/bench_*.py"))


for_each_package = nox.parametrize(
    "package", [nox.param(package, id=package.short_name) for package in PACKAGES.values()]
)
for_each_torch = nox.parametrize(
    "torch", [nox.param(v, id=torch_id(v), tags=[] if v == DEFAULT_TORCH else ["matrix"]) for v in TORCH_VERSIONS]
)

nox.options.sessions = [
    "lint",
    "types",
    *(f"tests({package.short_name}, {torch_id(DEFAULT_TORCH)})" for package in PACKAGES.values()),
    "smoke",
]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    install(session, RUFF)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
@for_each_package
def types(session: nox.Session, package: Package) -> None:
    """Check types with mypy, in an environment that holds the package's own dependencies only."""
    install_package(session, package, package.extras, f"torch=={DEFAULT_TORCH}", *package.group("types"))
    session.run("mypy", "--config-file", str(package.folder / "pyproject.toml"), str(package.folder / "src"))


@nox.session
@for_each_torch
@for_each_package
def tests(session: nox.Session, package: Package, torch: str) -> None:
    """Run one package's tests and doctests against its wheel and one torch."""
    # Peers that exist for one torch alone, such as torchvision, stand in a group of that torch: test-torch2_6.
    requirements = [*package.group("test"), *package.group(f"test-{torch_id(torch)}")]
    install_package(session, package, package.test_extras, f"torch=={torch}", *requirements)
    check_installation(session, package, "--torch", torch)
    session.chdir(package.folder)
    session.run("pytest", "--doctest-modules", "--pyargs", package.import_name, "tests", *session.posargs)


@nox.session
@for_each_package
def smoke(session: nox.Session, package: Package) -> None:
    """Install one package alone, from its wheel and from its sdist, and use it from outside the repository."""
    others = [other.name for other in PACKAGES.values() if other is not package]
    for kind in ("wheel", "sdist"):
        python = fresh_environment(session, kind)
        install_package(session, package, [], f"torch=={DEFAULT_TORCH}", kind=kind, python=python)
        check_installation(session, package, "--siblings", *others, python=python)
        session.chdir(tempfile.gettempdir())
        session.run(python, "-I", str(package.folder / "tests" / "smoke.py"), external=True)
        session.chdir(ROOT)


@nox.session
def walkthrough(session: nox.Session) -> None:
    """Train on handwritten digits, both styles and tasks, and run the README's example; or as told after --."""
    lightning = PACKAGES["fuse-lightning"]
    install_package(session, lightning, ["walkthrough"], f"torch=={DEFAULT_TORCH}")
    session.run("python", "-I", "tools/run_examples.py", "README.md")
    runs = [
        ["--task", "segmentation", "--min-score", "0.90"],
        ["--style", "custom", "--min-score", "0.97"],
        ["--style", "ready-made", "--min-score", "0.97"],
    ]
    for arguments in [session.posargs] if session.posargs else runs:
        session.run("python", "-I", "-m", "fuse_lightning.walkthrough", *arguments)


@nox.session
def build(session: nox.Session) -> None:
    """Build all wheels and sdists into dist/."""
    for package in PACKAGES.values():
        for kind in ("sdist", "wheel"):
            build_distribution(session, package, kind, ROOT / "dist")


@nox.session
@nox.parametrize("script", [nox.param(path, id=path.stem.removeprefix("bench_")) for path in BENCHMARKS])
def bench(session: nox.Session, script: Path) -> None:
    """Measure speed and memory against the peers that the benchmark's header names; arguments after -- go to it."""
    header = nox.project.load_toml(script)
    settings = header.get("tool", {}).get("bench", {})
    requirements = [Requirement(line) for line in header["dependencies"]]
    ours = {r.name: sorted(r.extras) for r in requirements if r.name in PACKAGES}
    peers = [str(r) for r in requirements if r.name not in PACKAGES and r.name != "torch"]
    torch = f"torch=={settings.get('torch', DEFAULT_TORCH)}"
    for name, extras in ours.items():
        install_package(session, PACKAGES[name], extras, torch, *peers)
    alone = settings.get("install-without-dependencies", [])
    if alone:
        install(session, "--no-deps", *alone)
    session.run("python", "-I", str(script), *session.posargs)


# ------------------------------------------------------------------------------------------------------------ the parts


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


def uses_uv(session: nox.Session) -> bool:
    """Whether uv, not pip, makes and fills the environments."""
    return session.venv_backend == "uv"


def install(session: nox.Session, *arguments: str, python: str | None = None) -> None:
    """Install into the session's environment, or that of the interpreter `python`."""
    if uses_uv(session):
        target = ["--python", python] if python else []
        environment = {"UV_FIND_LINKS": links} if (links := uv_find_links()) else {}
        session.run_install("uv", "pip", "install", "--quiet", *target, *arguments, env=environment)
    else:
        session.run_install(python or "python", "-m", "pip", "install", "--quiet", *arguments, external=bool(python))


def install_package(
    session: nox.Session,
    package: Package,
    extras: list[str],
    *requirements: str,
    kind: str = "wheel",
    python: str | None = None,
) -> None:
    """Build a package and the siblings it needs, and install them with what they declare."""
    folder = Path(session.create_tmp()) / kind
    packages = [package, *package.siblings(extras)]
    local = [build_distribution(session, one, kind, folder) for one in packages]
    local[0] += f"[{','.join(extras)}]" if extras else ""
    if uses_uv(session):
        reinstall = [f"--reinstall-package={one.name}" for one in packages]  # their versions move in releases only
        install(session, *reinstall, *local, *requirements, python=python)
    else:
        install(session, *local, *requirements, python=python)
        install(session, "--force-reinstall", "--no-deps", *local, python=python)


def build_distribution(session: nox.Session, package: Package, kind: str, folder: Path) -> str:
    """Build a package's wheel or sdist into a folder; returns the file's path."""
    if uses_uv(session):
        session.run_install("uv", "build", "--quiet", f"--{kind}", "--out-dir", str(folder), str(package.folder))
    else:
        tool = Path(session.create_tmp()).resolve() / "build-tool"  # apart, so that the environment stays clean
        if not tool.exists():
            session.run_install("python", "-m", "pip", "install", "--quiet", "--target", str(tool), "build")
        command = ["python", "-m", "build", f"--{kind}", "--outdir", str(folder), str(package.folder)]
        session.run_install(*command, env={"PYTHONPATH": str(tool)}, silent=True)
    version = re.search(
        r'__version__ = "(.+)"', package.folder.joinpath("src", package.import_name, "__about__.py").read_text()
    )
    suffix = "-py3-none-any.whl" if kind == "wheel" else ".tar.gz"
    return str(folder / f"{package.import_name}-{version[1]}{suffix}")


def fresh_environment(session: nox.Session, name: str) -> str:
    """A new environment beside the session's own; returns its interpreter."""
    folder = Path(session.create_tmp()).resolve() / f"{name}-environment"
    if uses_uv(session):
        session.run_install(
            "uv", "venv", "--quiet", "--clear", "--python", session.virtualenv.bin + "/python", str(folder)
        )
    else:
        session.run_install("python", "-m", "venv", "--clear", str(folder))
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def check_installation(session: nox.Session, package: Package, *arguments: str, python: str = "python") -> None:
    """Check what is installed; see tools/check_installation.py."""
    script = str(ROOT / "tools" / "check_installation.py")
    session.run(python, "-I", script, package.name, *arguments, external=python != "python")
