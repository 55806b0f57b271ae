"""`index.html`: the page that `RunReport` writes, with sections for this project."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from fuse_lightning.report.html_parts import escape, note, pictures, section, table
from fuse_lightning.report.run_page import PAGE_FILE, write_run_page

from .settings import Settings


def write_page(run_dir: Path, settings: Settings, shown: Mapping[str, str]) -> None:
    """Write the page again, with pictures of the run folder, the settings, and links to all files.

    Args:
        run_dir: the run folder.
        settings: the settings of the run.
        shown: the files of the pictures, by their titles.
    """
    values = dataclasses.asdict(settings).items()
    rows = [(name, "not set" if value is None else str(value)) for name, value in values]
    names = sorted(path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file())
    links = [f'<a href="{escape(quote(name))}">{escape(name)}</a>' for name in names if name != PAGE_FILE]
    more = [section(title, pictures([((run_dir / file).read_bytes(), title)], file)) for title, file in shown.items()]
    more.append(section("Settings", table(("setting", "value"), rows, "The settings of the run.", "texts")))
    more.append(section("Files", note("Files beside this page, in the run folder."), "<br>\n".join(links)))
    write_run_page(run_dir, more=more)
