"""The rules of versions, ranges and changelog fragments."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

from tools.changed import without_fragment
from tools.packages import PACKAGES, ROOT, Package, required_range
from tools.repository import changed_files, git, released

FRAGMENT_TYPES = ("breaking", "added", "changed", "fixed", "removed")
PARTS = ("major", "minor", "patch")


def next_version(version: Version, part: str) -> Version:
    """The version after `version`; `part` is one of `PARTS`: `minor` turns 0.2.1 into 0.3.0."""
    position = PARTS.index(part)
    numbers = [number if i < position else 0 for i, number in enumerate(version.release)]
    numbers[position] = version.release[position] + 1
    return Version(".".join(map(str, numbers)))


def set_version(package: Package, version: Version) -> None:
    """Write a package's version."""
    text = package.about.read_text(encoding="utf-8")
    package.about.write_text(re.sub(r'__version__ = ".+"', f'__version__ = "{version}"', text), encoding="utf-8")


def ranges_that_leave_out(package: Package, packages: dict[str, Package]) -> list[str]:
    """The siblings whose ranges exclude the package's version, a sentence each."""
    found = []
    for other in packages.values():
        requirement = required_range(other, package)
        if requirement is not None and not requirement.specifier.contains(package.version, prereleases=True):
            found.append(f"{other.name} needs {requirement}, which leaves out {package.name} {package.version}.")
    return found


def differs_from_its_release(package: Package) -> bool:
    """Whether what users get, the source and the metadata, is another than at the tag of the package's version."""
    if git("diff", package.tag, "--", str(package.about.parent), root=package.root):
        return True
    text = git("show", f"{package.tag}:packages/{package.folder.name}/pyproject.toml", root=package.root)
    return tomllib.loads(text)["project"] != package.pyproject["project"]


def source_problems(base: str, packages: dict[str, Package] = PACKAGES, root: Path = ROOT) -> list[str]:
    """Mistakes in fragments, versions and ranges since a commit, a sentence each."""
    found = []
    for name in without_fragment(changed_files(base, root), packages):
        found.append(f"{name}: src changed, but no file in changelog.d. Add one, such as +short-title.fixed.md.")
    for package in packages.values():
        for path in package.fragments:
            if not re.fullmatch(rf"\+[\w-]+\.({'|'.join(FRAGMENT_TYPES)})\.md", path.name):
                found.append(
                    f"{package.name}: {path.name} is not named +short-title.TYPE.md, with TYPE one of "
                    f"{', '.join(FRAGMENT_TYPES)}."
                )
            if not path.read_text(encoding="utf-8").strip():
                found.append(f"{package.name}: {path.name} is empty. Write a sentence for users.")
        if released(package) == package.version and differs_from_its_release(package):
            found.append(
                f"{package.name}: {package.version} is released, and src or [project] of pyproject.toml differs from "
                f'it. Run nox -s "bump({package.short_name})" -- patch (or minor).'
            )
        found += ranges_that_leave_out(package, packages)
    return found


def announces_breaking_change(package: Package, since: Version) -> bool:
    """Whether a package's version allows breaking changes since a release, and a fragment says what changed."""
    types = {path.name.split(".")[-2] for path in package.fragments}
    return package.version.release[:2] > since.release[:2] and bool(types & {"breaking", "changed", "removed"})


def release_problems(package: Package, *, dry_run: bool) -> list[str]:
    """Reasons not to release a package, a sentence each. Addresses and released siblings do not matter to a dry run."""
    found = []
    if git("status", "--porcelain"):
        found.append("The working tree is not clean. Commit or stash the changes.")
    if git("tag", "--list", package.tag):
        found.append(f'The tag {package.tag} exists. Run nox -s "bump({package.short_name})" -- patch (or minor).')
    if not package.fragments:
        found.append(f"{package.folder.name}/changelog.d holds no fragment that says what changed.")
    if not dry_run:
        if "urls" not in package.pyproject["project"]:
            found.append("The metadata has no address of the repository. Run nox -s urls -- https://...")
        for sibling in package.needs(package.extras, PACKAGES):
            requirement = required_range(package, sibling)
            if requirement is not None and released(sibling, requirement.specifier) is None:
                found.append(f"{package.name} needs {requirement}, of which none is released. Release it first.")
    return found
