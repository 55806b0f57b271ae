"""`index.html`: the run on one page, in one file that can be sent to somebody; its pictures are part of it."""

import base64
import dataclasses
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from .settings import Settings
from .start_run import MODEL_DIR
from .task import Evaluation, Picture, Table
from .wiring import ABOUT, HEADER, read_wiring_rows

PAGE_FILE = "index.html"

STYLE = """
:root { --ink: #1c2733; --faint: #5d6b7a; --line: #dde3ea; --paper: #f4f6f9; --accent: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; }
h1, h2, .sub, .tile, a { overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 20px; }
.sub { margin: 6px 0 24px; color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px; margin-bottom: 20px; }
.tile, section { background: white; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 18px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: 14px; }
.tile.score { background: var(--accent); border-color: var(--accent); color: white; }
.tile.score span { color: #d5e4f6; }
section { padding: 20px 24px; margin-bottom: 20px; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; margin: 0 auto; }
figcaption, .note { color: var(--faint); font-size: 14px; margin: 0 0 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { padding: 6px 12px; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; border-bottom-width: 2px; }
.numbers th + th, .numbers td + td { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: 13.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
td:first-child, .wiring td:nth-child(2) { white-space: nowrap; }
.wiring td:last-child { min-width: 300px; }
pre { margin: 0; overflow-x: auto; background: var(--paper); border-radius: 6px; padding: 12px 14px; }
footer { color: var(--faint); font-size: 14px; }
a { color: var(--accent); }
@media print { body { background: white; } section, .tile { break-inside: avoid; } }
"""

# Tells a test, or who looks with the browser's tools, whether all pictures are there.
SCRIPT = """
addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.complete || image.naturalWidth === 0);
  document.documentElement.dataset.brokenImages = broken.length;
});
"""


def write_page(run_dir: Path, settings: Settings, evaluation: Evaluation, best_epoch: int) -> Path:
    """Write `index.html` from what the run folder holds: the numbers first, then what explains them."""
    curves = Picture("learning_curves.png", "Learning curves", "Training and validation over the epochs.")
    first, *others = evaluation.pictures
    summary = f"style {settings.style} · {settings.optimizer} · {settings.epochs} epochs · seed {settings.seed}"
    title = f"{settings.task.capitalize()} of digits"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">Run <code>{escape(run_dir.resolve().name)}</code> · {escape(summary)}</p>',
        tiles(evaluation, best_epoch),
        picture_section(run_dir, curves),
        picture_section(run_dir, first),
        *(table_section(table) for table in evaluation.tables),
        *(picture_section(run_dir, picture) for picture in others),
        *(
            section(f"Best and last epoch, by {name_of_summary(path)}", f"<pre>{escape(path.read_text('utf-8'))}</pre>")
            for path in sorted((run_dir / MODEL_DIR).glob("epoch_summary_*.txt"))
        ),
        section("Wiring", note(ABOUT) + wiring_table(read_wiring_rows(run_dir))),
        section("Settings", settings_table(settings)),
        section("Files", files_list(run_dir)),
    ]
    page = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}: {escape(evaluation.score_name)} {evaluation.score:.4f}</title>",
            f"<style>{STYLE}</style>\n<script>{SCRIPT}</script>\n</head>\n<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )
    path = run_dir / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def escape(text: object) -> str:
    """The text as HTML shows it."""
    return html.escape(str(text))


def section(title: str, content: str) -> str:
    """A part of the page."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def note(text: str) -> str:
    """A line that explains what follows."""
    return f'<p class="note">{escape(text)}</p>'


def tiles(evaluation: Evaluation, best_epoch: int) -> str:
    """The score and the other numbers."""
    numbers = {**evaluation.numbers, "best epoch": best_epoch}
    score = f'<div class="tile score"><b>{evaluation.score:.4f}</b><span>{escape(evaluation.score_name)}</span></div>'
    others = [f'<div class="tile"><b>{escape(n)}</b><span>{escape(name)}</span></div>' for name, n in numbers.items()]
    return "\n".join(['<div class="tiles">', score, *others, "</div>"])


def picture_section(run_dir: Path, picture: Picture) -> str:
    """A picture of the run folder, embedded."""
    content = base64.b64encode((run_dir / picture.file).read_bytes()).decode("ascii")
    image = f'<img src="data:image/png;base64,{content}" alt="{escape(picture.title)}">'
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return section(picture.title, f"<figure>{caption}{image}</figure>")


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}">\n<tr>{head}</tr>\n{body}\n</table></div>'


def table_section(table: Table) -> str:
    """A table of numbers."""
    rows = [[escape(cell) for cell in row] for row in table.rows]
    return section(table.title, html_table([escape(cell) for cell in table.header], rows, "numbers"))


def wiring_table(rows: Iterable[Sequence[str]]) -> str:
    """Keys with who writes and who reads them."""
    return html_table(
        HEADER, [[f"<code>{escape(key)}</code>", escape(by), escape(to)] for key, by, to in rows], "wiring"
    )


def settings_table(settings: Settings) -> str:
    """The settings as run."""
    values = dataclasses.asdict(settings).items()
    return html_table(
        ("setting", "value"),
        [(f"<code>{escape(name)}</code>", "not set" if value is None else escape(value)) for name, value in values],
    )


def files_list(run_dir: Path) -> str:
    """Links to what lies beside the page."""
    names = sorted(path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file())
    links = [f'<a href="{escape(quote(name))}">{escape(name)}</a>' for name in names if name != PAGE_FILE]
    return note("Beside this page, in the run folder.") + "<br>\n".join(links)


def name_of_summary(path: Path) -> str:
    """What the best epoch was chosen by."""
    return path.stem.removeprefix("epoch_summary_")
