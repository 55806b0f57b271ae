"""Files of the build. One whose content did not change keeps its time, so that Sphinx does not read it again."""

from pathlib import Path


def write_if_changed(path: Path, text: str) -> None:
    """Write a text file, unless it holds the text already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
