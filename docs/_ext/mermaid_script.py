"""Mermaid's own script, from npm, on the pages that hold a drawing. It is a file of the site, not of a server."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinxcontrib.mermaid import install_js, mermaid

VERSION = "11.12.1"


def fetch_script(path: Path) -> None:
    """Write mermaid's script to `path`, unless it is there already.

    Raises:
        ExtensionError: npm is not installed, or does not reach its registry.
    """
    if path.is_file():
        return
    if shutil.which("npm") is None:
        raise ExtensionError("The drawings need mermaid, which npm brings: install Node.js, which includes npm.")
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", f"mermaid@{VERSION}", "--silent"], cwd=path.parent, capture_output=True, text=True
    )
    if packed.returncode:
        raise ExtensionError(f"npm pack mermaid@{VERSION} failed: {packed.stderr}")
    archive = path.parent / packed.stdout.split()[-1]
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
        script = files.extractfile("package/dist/mermaid.min.js")
        if script is None:
            raise ExtensionError(f"mermaid {VERSION} holds no dist/mermaid.min.js.")
        path.write_bytes(script.read())
    archive.unlink()


def add_static_folder(app: Sphinx, config: Any) -> None:
    """Make the script a static file."""
    folder = Path(app.confdir) / "_built" / "static"
    fetch_script(folder / "mermaid.min.js")
    config.html_static_path.append(str(folder))
    listeners = app.events.listeners["html-page-context"]  # the extension's own loads the script from a server
    for listener in [one for one in listeners if one.handler is install_js]:
        app.disconnect(listener.id)


def add_to_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load the script where a drawing is."""
    if doctree is not None and doctree.next_node(mermaid) is not None:
        app.add_js_file("mermaid.min.js")
        app.add_js_file("drawings.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", add_static_folder)
    app.connect("html-page-context", add_to_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
