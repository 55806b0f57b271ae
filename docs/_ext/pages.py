"""Writes the pages that come from the code and from files elsewhere: packages, API, changelogs, losses, models."""

import importlib
import inspect
import re
from pathlib import Path

from docstrings import MODULES
from files import write_if_changed
from loss_pages import write_loss_pages
from model_pages import write_model_pages
from sphinx.application import Sphinx

PACKAGES = ("core", "losses", "models", "optim", "lightning")
KINDS = {"breaking": "Breaking", "added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}


def write_package_pages(docs: Path) -> None:
    """A page for each package, which is its README."""
    for name in PACKAGES:
        text = f"```{{include}} ../../packages/fuse-{name}/README.md\n```\n"
        write_if_changed(docs / "packages" / f"fuse-{name}.md", text)


def write_api_pages(docs: Path) -> None:
    """A page for each module, with a table of its public names, and a page for each of these."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        constants, objects = [], []
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            if callable(value):
                objects.append(f"   {name}")
                kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
                options = "   :no-value:\n" if kind == "data" else ""
                text = f"{name}\n{'=' * len(name)}\n\n.. currentmodule:: {module_name}\n\n.. auto{kind}:: {name}\n{options}"
                page = "fuse_core.collate-function" if name == "collate" else f"{module_name}.{name}"
                write_if_changed(docs / "api" / "generated" / f"{page}.rst", text)
            elif isinstance(value, str) and name != "__version__":
                constants.append(f"``{name}``\n   ``{value!r}``\n")
        summary = (inspect.getdoc(module) or "").split("\n\n")[0].replace("`", "``")
        lines = [module_name, "=" * len(module_name), "", summary, "", f".. currentmodule:: {module_name}", ""]
        lines += [".. autosummary::", "   :toctree: generated", "   :nosignatures:", "", *objects, ""]
        if constants:
            lines += ["Constants", "---------", "", *constants]
        write_if_changed(docs / "api" / f"{module_name}.rst", "\n".join(lines))


def write_changelogs(docs: Path) -> None:
    """The released changes of each package, and the fragments of those that the next release brings."""
    parts = [
        "# Changelogs",
        "Each package has its own versions. What stands under *next release* is in the repository.",
    ]
    for name in PACKAGES:
        folder = docs.parent / "packages" / f"fuse-{name}"
        parts.append(f"## fuse-{name}")
        about = (folder / "src" / f"fuse_{name}" / "__about__.py").read_text(encoding="utf-8")
        version = re.search(r'"(.+)"', about)
        fragments = sorted((folder / "changelog.d").glob("+*.md"))
        if fragments and version:
            parts.append(f"### {version[1]}, next release")
        for kind, title in KINDS.items():
            texts = [one.read_text(encoding="utf-8").strip() for one in fragments if one.name.endswith(f".{kind}.md")]
            if texts:
                parts.append(f"**{title}**")
                parts.append("\n".join("- " + text.replace("\n", "\n  ") for text in texts))
        released = (
            (folder / "CHANGELOG.md").read_text(encoding="utf-8").partition("<!-- the newest release comes first -->")
        )
        if released[2].strip():
            parts.append(re.sub(r"(?m)^#", "##", released[2].strip()))
    write_if_changed(docs / "changelogs.md", "\n\n".join(parts) + "\n")


def write_pages(app: Sphinx, config: object) -> None:
    """Write them all before the build reads its sources."""
    docs = Path(app.confdir)
    write_package_pages(docs)
    write_api_pages(docs)
    write_changelogs(docs)
    write_loss_pages(docs)
    write_model_pages(docs)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, before it looks for pages."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True}
