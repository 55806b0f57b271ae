"""The addresses in the packages' metadata, all derived from that of the repository."""

from __future__ import annotations

import re

from tools.packages import Package


def project_urls(package: Package, repository: str) -> dict[str, str]:
    """The addresses of one package by their labels."""
    folder = f"packages/{package.folder.name}"
    return {
        "Homepage": f"{repository}/tree/main/{folder}",
        "Documentation": f"{repository}/tree/main/{folder}#readme",
        "Changelog": f"{repository}/blob/main/{folder}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def set_urls(package: Package, repository: str) -> None:
    """Write a package's addresses into its pyproject.toml, in place of those that are there."""
    path = package.folder / "pyproject.toml"
    text = re.sub(r"\[project\.urls\]\n(.+\n)+\n", "", path.read_text(encoding="utf-8"))
    lines = [f'{label} = "{address}"\n' for label, address in project_urls(package, repository.rstrip("/")).items()]
    table = f"[project.urls]\n{''.join(lines)}\n"
    path.write_text(text.replace("[dependency-groups]\n", f"{table}[dependency-groups]\n", 1), encoding="utf-8")
