"""The lowest versions that a package says it works with."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def minimum(requirement: Requirement) -> Version:
    """The version that a requirement starts at."""
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    if not bounds:
        raise ValueError(
            f"'{requirement}' has no lower bound: write one that its tests pass with, as {requirement}>=1.0"
        )
    return max(bounds)


def at_minimum(requirements: list[Requirement]) -> list[Requirement]:
    """The requirements, each pinned to its minimum. Of several for one distribution, the highest minimum counts."""
    pinned: dict[str, Requirement] = {}
    for requirement in sorted(requirements, key=minimum):
        name = canonicalize_name(requirement.name)
        extras = sorted(requirement.extras | (pinned[name].extras if name in pinned else set()))
        pinned[name] = Requirement(f"{name}[{','.join(extras)}]=={minimum(requirement)}")
    return [pinned[name] for name in sorted(pinned)]


def wrong_versions(pinned: list[Requirement], installed: dict[str, str]) -> list[str]:
    """What is installed in another version than pinned, a sentence each."""
    versions = {canonicalize_name(name): version for name, version in installed.items()}
    return [
        f"{requirement.name} is {versions.get(requirement.name, 'missing')}, not {minimum(requirement)}"
        for requirement in pinned
        if requirement.name not in versions
        or Version(Version(versions[requirement.name]).public) != minimum(requirement)
    ]
