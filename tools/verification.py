"""The long test runs of a package: at its lowest versions, with released siblings, and as it will be released."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement

from tools.compatibility import combinations, siblings_at_minimum
from tools.environments import (
    build_distribution,
    check_versions,
    fresh_environment,
    install,
    install_package,
    run_tests,
)
from tools.lower_bounds import at_minimum
from tools.packages import DEFAULT_TORCH, PACKAGES, ROOT, TORCH_VERSIONS, Package, torch_id
from tools.release import announces_breaking_change
from tools.repository import git, package_at, released

GRIFFE = "griffe==2.4.1"


def peers(package: Package, torch: str) -> list[str]:
    """What a package's tests need with one torch: the group `test`, and one named after this version, if any."""
    return [*package.group("test"), *package.group(f"test-{torch_id(torch)}")]


def run_at_lowest_versions(session: nox.Session, package: Package) -> None:
    """Run a package's tests with every direct dependency at its declared minimum."""
    declared = package.requirements(package.test_extras)
    pinned = at_minimum([*declared, *map(Requirement, peers(package, TORCH_VERSIONS[0]))])
    python = fresh_environment(session, "lowest")
    with tempfile.TemporaryDirectory() as folder:
        siblings = siblings_at_minimum(package, PACKAGES, Path(folder))
        others = [str(requirement) for requirement in pinned if requirement.name not in PACKAGES]
        install_package(session, package, package.test_extras, *others, packages=PACKAGES | siblings, python=python)
    check_versions(session, pinned, python)
    run_tests(session, package, *pytest_arguments(session), python=python)


def run_with_released_siblings(session: nox.Session, package: Package) -> None:
    """Compare a package's public names with its last release, and test it with its siblings as released."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        if not keeps_public_names(session, package, Path(folder)):
            failed.append(
                f"{package.name}: breaking changes need a new minor version and a fragment that describes them"
            )
        found, skipped = combinations(package, PACKAGES, Path(folder))
        for sentence in skipped:
            session.log(f"skipped: {sentence}")
        for combination in found:
            session.log(combination.name)
            tested = combination.tested
            python = fresh_environment(session, "compat")
            requirements = [f"torch=={DEFAULT_TORCH}", *peers(tested, DEFAULT_TORCH)]
            try:
                install_package(
                    session, tested, tested.test_extras, *requirements, packages=combination.packages, python=python
                )
                run_tests(session, tested, *pytest_arguments(session), python=python)
            except CommandFailed:
                failed.append(combination.name)
    if failed:
        session.error("\n".join(f"failed: {name}" for name in failed))


def keeps_public_names(session: nox.Session, package: Package, folder: Path) -> bool:
    """Log the breaking changes of a package's public names since its last release; False if not announced."""
    version = released(package)
    if version is None:
        session.log(f"skipped: {package.name} has no release to compare its public names with.")
        return True
    install(session, GRIFFE)
    old = package_at(package, version, folder)
    script = str(ROOT / "tools" / "public_api.py")
    sources = [str(one.folder / "src") for one in (old, package)]
    changes = session.run("python", "-I", script, package.import_name, *sources, silent=True).strip()
    session.log(changes or f"{package.name} keeps all public names of {version}.")
    return not changes or announces_breaking_change(package, version)


def run_as_released(session: nox.Session, name: str, packages: dict[str, Package]) -> list[Path]:
    """Commit a package's changelog, build its wheel and sdist, and test both in fresh, uncached environments."""
    package = packages[name]
    towncrier = ["--yes", "--config", str(ROOT / "tools" / "towncrier.toml"), "--dir", str(package.folder)]
    with session.chdir(package.folder):  # whose git repository removes the fragments
        session.run("towncrier", "build", *towncrier, "--name", package.name, "--version", str(package.version))
    root = package.root
    git("add", "--all", str(package.folder), root=root)
    git("commit", "--quiet", "--message", f"Release {package.name} {package.version}", root=root)
    folder = Path(session.create_tmp()).resolve()
    built = {kind: Path(build_distribution(session, package, kind, folder / kind)) for kind in ("wheel", "sdist")}
    session.run("twine", "check", "--strict", *map(str, built.values()))
    session.run("check-wheel-contents", str(built["wheel"]))
    shutil.unpack_archive(built["sdist"], root / "unpacked", filter="data")
    unpacked = root / "unpacked" / built["sdist"].name.removesuffix(".tar.gz")
    requirements = [f"torch=={DEFAULT_TORCH}", *peers(package, DEFAULT_TORCH)]
    for kind in built:
        python = fresh_environment(session, kind)
        settings = {"packages": packages, "kind": kind, "python": python, "cached": False}
        install_package(session, package, package.test_extras, *requirements, **settings)
        run_tests(session, package, python=python, folder=unpacked)
    return list(built.values())


def pytest_arguments(session: nox.Session) -> list[str]:
    """The arguments after -- that are meant for pytest."""
    return [argument for argument in session.posargs if argument != "--dry-run"]


@contextmanager
def copy_of_the_repository() -> Iterator[Path]:
    """A second working tree of HEAD, for a commit that is kept only if all checks pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        git("worktree", "add", "--quiet", "--detach", str(copy))
        try:
            yield copy
        finally:
            git("worktree", "remove", "--force", str(copy))
