"""The packages of this repository, read from `packages/*/pyproject.toml`, and which of them needs which."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.resolve()
TORCH_VERSIONS = ("2.6.0", "2.13.0", "2.15.0")  # the oldest, the default, the newest
DEFAULT_TORCH = "2.13.0"
PYTHON_VERSIONS = ("3.11", "3.12", "3.13")


def torch_id(version: str) -> str:
    """`torch2_13` for 2.13.0."""
    return "torch" + "_".join(version.split(".")[:2])


@dataclass(frozen=True)
class Package:
    """One package, as the pyproject.toml in its folder describes it."""

    folder: Path
    pyproject: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's name, such as `fuse-losses`."""
        return self.pyproject["project"]["name"]

    @property
    def short_name(self) -> str:
        """The name in session names, such as `losses`. It can be typed in nox's expressions."""
        return self.name.removeprefix("fuse-").replace("-", "_")

    @property
    def import_name(self) -> str:
        """The module's name, such as `fuse_losses`."""
        return self.name.replace("-", "_")

    @property
    def root(self) -> Path:
        """The repository that holds it."""
        return self.folder.parent.parent

    @property
    def about(self) -> Path:
        """The file that states the version."""
        return self.folder / "src" / self.import_name / "__about__.py"

    @property
    def version(self) -> Version:
        """The version that is released next, or has been released if its tag exists."""
        return Version(re.search(r'__version__ = "(.+)"', self.about.read_text(encoding="utf-8"))[1])

    @property
    def tag(self) -> str:
        """The git tag of its version."""
        return f"{self.name}-v{self.version}"

    @property
    def fragments(self) -> list[Path]:
        """The changelog fragments that wait for its release."""
        return sorted(self.folder.glob("changelog.d/*.md"))

    @property
    def extras(self) -> list[str]:
        """All optional extras."""
        return sorted(self.pyproject["project"].get("optional-dependencies", {}))

    @property
    def test_extras(self) -> list[str]:
        """The extras that its tests need, as `hatch test` installs them."""
        return self.pyproject["tool"]["hatch"]["envs"]["hatch-test"].get("features", [])

    def group(self, name: str) -> list[str]:
        """The requirements of a dependency group. A group that does not exist is empty."""
        return self.pyproject.get("dependency-groups", {}).get(name, [])

    def requirements(self, extras: list[str]) -> list[Requirement]:
        """What it declares, with these extras."""
        project = self.pyproject["project"]
        declared = [*project["dependencies"]]
        for extra in extras:
            declared += project["optional-dependencies"][extra]
        return [Requirement(line) for line in declared]

    def needs(self, extras: list[str], packages: dict[str, Package]) -> list[Package]:
        """The siblings that it needs with these extras, directly or through another one."""
        found: dict[str, Package] = {}
        for requirement in self.requirements(extras):
            sibling = packages.get(canonicalize_name(requirement.name))
            if sibling is not None:
                for package in (sibling, *sibling.needs(sorted(requirement.extras), packages)):
                    found[package.name] = package
        return list(found.values())


def load_packages(root: Path) -> dict[str, Package]:
    """The packages of a repository by name."""
    packages = [
        Package(path.parent, tomllib.loads(path.read_text(encoding="utf-8")))
        for path in sorted(root.glob("packages/*/pyproject.toml"))
    ]
    return {package.name: package for package in packages}


def dependents(package: Package, packages: dict[str, Package], *, through_extras: bool) -> list[Package]:
    """The siblings that need a package, directly or through another one.

    Args:
        package: The package that they need.
        packages: All packages by name.
        through_extras: Whether a requirement of an optional extra counts too.
    """
    return [
        other
        for other in packages.values()
        if package.name in {p.name for p in other.needs(other.extras if through_extras else [], packages)}
    ]


def required_range(package: Package, sibling: Package) -> Requirement | None:
    """The requirement by which a package names a sibling, in its dependencies or in an extra; None without one."""
    for requirement in package.requirements(package.extras):
        if canonicalize_name(requirement.name) == sibling.name:
            return requirement
    return None


PACKAGES = load_packages(ROOT)
