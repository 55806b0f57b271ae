"""Checks an installed package: that it is the installed one, with the right torch, and imports what it declares only.

Imports nothing of it, because torch takes seconds.
Run with the environment's interpreter: `python -I tools/check_installation.py fuse-losses --siblings fuse-optim ...`.
"""

import argparse
import ast
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
from pathlib import Path

LIGHTNING = ("pytorch-lightning", "lightning")


def import_name(distribution: str) -> str:
    """The name to import: fuse_losses for fuse-losses."""
    return distribution.replace("-", "_")


def declared(distribution: str, extra: str | None = None) -> set[str]:
    """The distributions that one declares always, or for one extra alone."""
    found = set()
    for requirement in importlib.metadata.requires(distribution) or []:
        belongs_to = re.search(r"""extra == ["'](.+?)["']""", requirement)
        if (belongs_to and belongs_to[1]) == extra:
            found.add(re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-"))
    return found


def declared_transitively(distribution: str, among: set[str]) -> set[str]:
    """The members of `among` that come with a distribution, directly or through another member."""
    found = declared(distribution) & among
    return found.union(*(declared_transitively(other, among) for other in found))


def imports(folder: Path) -> list[tuple[Path, str]]:
    """Each top-level module that a file of the package imports anywhere, inside functions too, with the file."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            found += [(path, name.partition(".")[0]) for name in names]
    return found


def problems(distribution: str, siblings: list[str], torch_version: str | None) -> list[str]:
    """What is wrong, a sentence each."""
    found = []
    spec = importlib.util.find_spec(import_name(distribution))
    if spec is None or spec.origin is None:
        return [f"{distribution} is not installed"]
    folder = Path(spec.origin).parent
    site_packages = Path(sysconfig.get_path("purelib"))
    if not folder.is_relative_to(site_packages):
        found.append(f"{distribution} is imported from {folder}, not from {site_packages}")
    installed = importlib.metadata.version("torch")
    if torch_version is not None and installed.partition("+")[0] != torch_version:
        found.append(f"torch is {installed}, not {torch_version}")

    watched = {*siblings, *LIGHTNING}
    always = declared(distribution)
    for path, name in imports(folder):
        # What an extra brings may be imported in the module that is called like it: walkthrough, lightning.
        parts = path.relative_to(folder).with_suffix("").parts
        allowed = always.union(*(declared(distribution, extra) for extra in parts))
        for other in watched:
            if name == import_name(other) and other not in {*allowed, distribution}:
                found.append(f"{path} imports {name}, but {distribution} does not declare {other}")
    if siblings:
        for other in watched - declared_transitively(distribution, watched):
            if importlib.util.find_spec(import_name(other)) is not None:
                found.append(f"{other} is installed, but {distribution} does not declare it")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("distribution")
    parser.add_argument("--siblings", nargs="*", default=[], help="packages that must not be there unless declared")
    parser.add_argument("--torch", help="the torch version that must be there")
    options = parser.parse_args()
    messages = problems(options.distribution, options.siblings, options.torch)
    if messages:
        sys.exit("\n".join(f"error: {message}" for message in messages))
    print(f"{options.distribution} {importlib.metadata.version(options.distribution)}: installation checked")
