"""Questions to git: which files changed, which versions are released, what a release holds."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools.packages import ROOT, Package, load_packages


def git(*arguments: str, root: Path = ROOT) -> str:
    """The output of a git command."""
    command = ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def merge_base(branch: str | None = None, root: Path = ROOT) -> str:
    """The commit where HEAD left a branch: by default `origin/main`, or `main` without a remote."""
    known = git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes", root=root).splitlines()
    branches = [branch] if branch else [name for name in ("origin/main", "main") if name in known]
    if not branches:
        raise RuntimeError("neither origin/main nor main exists: name the branch to compare with, --base BRANCH")
    return git("merge-base", "HEAD", branches[0], root=root)


def changed_files(base: str, root: Path = ROOT) -> list[str]:
    """The paths that differ from a commit: committed, changed and new ones. A moved file counts at both places."""
    differing = git("diff", "--name-only", "--no-renames", base, root=root).splitlines()
    return sorted({*differing, *git("ls-files", "--others", "--exclude-standard", root=root).splitlines()})


def released(package: Package, within: SpecifierSet | None = None) -> Version | None:
    """The newest version of a package that is tagged, within a range if one is given; None without one."""
    prefix = f"{package.name}-v"
    tags = git("tag", "--list", f"{prefix}*", root=package.root).splitlines()
    versions = [Version(tag.removeprefix(prefix)) for tag in tags]
    return max((v for v in versions if within is None or within.contains(v, prereleases=True)), default=None)


def package_at(package: Package, version: Version, folder: Path) -> Package:
    """A package as a release holds it, written below a folder."""
    archive = subprocess.run(
        ["git", "-C", str(package.root), "archive", f"{package.name}-v{version}", "packages"],
        capture_output=True,
        check=True,
    )
    target = folder / f"{package.name}-{version}"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(target, filter="data")
    return load_packages(target)[package.name]
