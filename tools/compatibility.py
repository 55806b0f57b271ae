"""Which unreleased and released packages must work together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.lower_bounds import minimum
from tools.packages import Package, dependents, required_range
from tools.repository import package_at, released


@dataclass(frozen=True)
class Combination:
    """Packages to install together, and the one whose tests to run."""

    name: str
    tested: Package
    packages: dict[str, Package]


def combinations(package: Package, packages: dict[str, Package], folder: Path) -> tuple[list[Combination], list[str]]:
    """What a package must work with: its released dependents, and the released siblings that it needs.

    Args:
        package: The package as the working tree holds it.
        packages: All packages of the working tree by name.
        folder: Where releases are written to.

    Returns:
        The combinations, and a sentence for each that has no release.
    """
    found: list[Combination] = []
    skipped: list[str] = []
    for dependent in dependents(package, packages, through_extras=True):
        version = released(dependent)
        if version is None:
            skipped.append(f"{dependent.name} has no release yet.")
            continue
        old = package_at(dependent, version, folder)
        requirement = required_range(old, package)
        if requirement is None:
            continue  # it needs the package through another sibling, whose combination is tested too
        if not requirement.specifier.contains(package.version, prereleases=True):
            skipped.append(f"{old.name} {version} needs {requirement}, which leaves out {package.version}.")
            continue
        siblings = released_siblings(old, packages, folder, without=package)
        found.append(
            Combination(
                f"{package.name} of the working tree with the released {old.name} {version}",
                old,
                {**packages, **siblings, old.name: old},
            )
        )
    if siblings := released_siblings(package, packages, folder):
        names = " and ".join(f"{one.name} {one.version}" for one in siblings.values())
        found.append(
            Combination(f"{package.name} of the working tree with the released {names}", package, packages | siblings)
        )
    elif package.needs(package.extras, packages):
        skipped.append(f"No sibling that {package.name} needs has a release in the range it declares.")
    return found, skipped


def released_siblings(
    package: Package, packages: dict[str, Package], folder: Path, without: Package | None = None
) -> dict[str, Package]:
    """The siblings that a package names, each as last released within the range it is needed in."""
    found = {}
    for sibling in packages.values():
        requirement = required_range(package, sibling)
        if requirement is None or (without is not None and sibling.name == without.name):
            continue
        version = released(sibling, requirement.specifier)
        if version is not None:
            found[sibling.name] = package_at(sibling, version, folder)
    return found


def siblings_at_minimum(package: Package, packages: dict[str, Package], folder: Path) -> dict[str, Package]:
    """The siblings that a package names, each in the lowest version of the range it is needed in.

    Args:
        package: The package.
        packages: All packages of the working tree by name.
        folder: Where releases are written to.

    Raises:
        ValueError: If a lowest version is neither released nor that of the working tree.
    """
    found = {}
    for sibling in packages.values():
        requirement = required_range(package, sibling)
        if requirement is None:
            continue
        lowest = minimum(requirement)
        version = released(sibling, requirement.specifier & f"=={lowest}")
        if version is not None:
            found[sibling.name] = package_at(sibling, version, folder)
        elif sibling.version == lowest:
            found[sibling.name] = sibling
        else:
            raise ValueError(
                f"{package.name} needs {requirement}, but {sibling.name} {lowest} is neither released nor in this "
                f"working tree, which holds {sibling.version}"
            )
    return found
