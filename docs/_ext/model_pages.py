"""A page for each model."""

from pathlib import Path

from files import write_if_changed


def write_model_pages(docs: Path) -> None:
    """Write them."""
    write_if_changed(docs / "models" / "index.md", "# Models\n")
