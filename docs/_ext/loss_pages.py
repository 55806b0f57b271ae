"""A page for each loss."""

from pathlib import Path

from files import write_if_changed


def write_loss_pages(docs: Path) -> None:
    """Write them."""
    write_if_changed(docs / "losses" / "index.md", "# Losses\n")
