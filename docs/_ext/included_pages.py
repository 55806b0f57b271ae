"""Pages that stand elsewhere in the repository: their links lead to pages of the site where there is one."""

import posixpath
import re
from pathlib import Path

from docstrings import public_names
from sphinx.application import Sphinx

NAMED_PAGE = re.compile(r"`docs/([\w/-]+)\.md`")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs": "index.md",
    **{
        f"packages/fuse-{name}": f"packages/fuse-{name}.md"
        for name in ("core", "losses", "models", "optim", "lightning")
    },
}


def page_of(path: str) -> str | None:
    """The page of the site for a path in the repository; None if it has none.

    Example:
        >>> page_of("packages/fuse-core/README.md")
        'packages/fuse-core.md'
    """
    path = path.removesuffix("/").removesuffix("/README.md")
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path)


def rewrite(text: str, folder: str, page: str) -> str:
    """The text of a page, with the links of `folder` turned to those of the site's page `page`."""

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        found = page_of(posixpath.normpath(posixpath.join(folder, target)))
        if found is None:
            return label  # a file of the repository that has no page
        return f"[{label}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(link, text)


def link_names(text: str) -> str:
    """The text, in which the names in the first column of tables lead to the API reference.

    Example:
        >>> link_names("| `LossDice` | `dice_loss` |")
        '| {py:obj}`~fuse_losses.LossDice` | `dice_loss` |'
    """
    names = public_names()

    def link(match: re.Match[str]) -> str:
        return f"{{py:obj}}`~{names[match[1]]}`" if match[1] in names else match[0]

    return re.sub(r"(?m)^\|[^|\n]+", lambda cell: re.sub(r"`(\w*[a-z]\w*)`", link, cell[0]), text)  # no constants


def on_include(app: Sphinx, relative_path: Path, parent: str, content: list[str]) -> None:
    """Rewrite an included file."""
    root = Path(app.confdir).parent.resolve()
    path = (Path(app.confdir) / relative_path).resolve()
    if path.suffix == ".md" and path.is_relative_to(root):
        folder = path.parent.relative_to(root).as_posix()
        text = NAMED_PAGE.sub(r"{doc}`/\1`", content[0])  # READMEs on an index page cannot link to the repository
        content[0] = rewrite(link_names(text), folder, f"{parent}.md")


def on_read(app: Sphinx, page: str, content: list[str]) -> None:
    """Rewrite the links of a page in docs/ that lead out of it."""
    if "../" in content[0]:
        folder = posixpath.dirname(f"docs/{page}")

        def outside(match: re.Match[str]) -> str:
            target = posixpath.normpath(posixpath.join(folder, match[2]))
            return rewrite(match[0], folder, f"{page}.md") if not target.startswith("docs/") else match[0]

        content[0] = LINK.sub(outside, content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("include-read", on_include)
    app.connect("source-read", on_read)
    return {"parallel_read_safe": True}
