"""Which packages a change touches, and why."""

from __future__ import annotations

from pathlib import PurePosixPath

from tools.packages import Package, dependents


def affected(files: list[str], packages: dict[str, Package]) -> dict[str, str]:
    """The packages to check after a change of files, with the reason of each.

    A package is affected by its own files and by those of the siblings that it needs, without extras. A file outside
    `packages/` affects all.

    Args:
        files: Changed paths, relative to the repository.
        packages: All packages by name.

    Returns:
        Reasons by package name, in the order of `packages`.
    """
    by_folder = {package.folder.name: package for package in packages.values()}
    reasons: dict[str, str] = {}
    for file in files:
        parts = PurePosixPath(file).parts
        if parts[0] != "packages" or parts[1] not in by_folder:
            return dict.fromkeys(packages, f"{file} is outside the packages")
        reasons.setdefault(by_folder[parts[1]].name, f"{file} changed")
    for name in list(reasons):
        for dependent in dependents(packages[name], packages, through_extras=False):
            reasons.setdefault(dependent.name, f"needs {name}")
    return {name: reasons[name] for name in packages if name in reasons}


def without_fragment(files: list[str], packages: dict[str, Package]) -> list[str]:
    """The packages whose `src` changed, but not any fragment in `changelog.d`."""
    missing = []
    for package in packages.values():
        folder = f"packages/{package.folder.name}"
        fragments = {f"{folder}/changelog.d/{path.name}" for path in package.fragments}
        sources = {file for file in files if file.startswith(f"{folder}/src/") and not file.endswith("/__about__.py")}
        if sources and not fragments & set(files):
            missing.append(package.name)
    return missing
