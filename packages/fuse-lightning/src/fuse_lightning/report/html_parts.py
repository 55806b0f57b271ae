"""The parts of a page of results: one HTML file with a light and a dark scheme, for screens of any width."""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsFloat

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --faint: #53606d; --line: #d5dce4; --paper: #f4f6f9; --card: #ffffff;
  --accent: #1f5fa8; --on-accent: #ffffff; --train: #0072b2; --validation: #b85000; --link: #1f5fa8;
  --heat: #005a8d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --faint: #a4b0bd; --line: #37424e; --paper: #12171d;
  --card: #1b222a; --accent: #2f6fb8; --train: #56b4e9; --validation: #e69f00; --link: #7db8f5;
  --heat: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; }
h1, h2, .sub, .tile, a { overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 20px; }
.sub { margin: 6px 0 24px; color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-bottom: 20px; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 18px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: 14px; }
.tile.score { background: var(--accent); border-color: var(--accent); color: var(--on-accent); }
.tile.score span { color: var(--on-accent); }
section { padding: 20px 24px; margin-bottom: 20px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 20px; }
figure { margin: 0; min-width: 0; }
figure img { display: block; max-width: 100%; margin: 0 auto; border-radius: 6px; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 14px; }
.images img { width: 100%; image-rendering: pixelated; }
.images.pixels { grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); }
.beside { display: flex; gap: 3px; }
.beside img { flex: 1; min-width: 0; margin: 0; }
.swatch { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 2px; vertical-align: -1px; }
figcaption, .note { color: var(--faint); font-size: 14px; margin: 0 0 12px; }
.images figcaption { margin: 4px 0 0; }
svg { display: block; width: 100%; max-width: 460px; height: auto; margin: 0 auto; }
svg text { fill: var(--ink); font: 12px system-ui, "DejaVu Sans", sans-serif; }
svg .faint { fill: var(--faint); }
svg .grid { stroke: var(--line); }
.legend { display: inline-block; margin-right: 16px; }
.scroll { overflow-x: auto; }
.scroll > svg { max-width: none; width: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
caption { position: sticky; left: 0; max-width: calc(100vw - 80px); text-align: left; color: var(--faint);
  font-size: 14px; padding-bottom: 8px; }
th, td { padding: 6px 12px; text-align: left; border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 600; border-bottom-width: 2px; }
tbody th { font-weight: 400; white-space: nowrap; }
.numbers th + th, .numbers td { text-align: right; font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; }
.confusion { width: auto; }
.confusion caption { white-space: nowrap; max-width: none; }
.confusion td { text-align: center; padding: 4px 6px; min-width: 40px; border: 1px solid var(--card); }
.confusion .much { color: var(--paper); }
code, pre { font: 13.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
a { color: var(--link); }
@media (max-width: 480px) { main { padding: 20px 12px 40px; } section { padding: 16px 14px; }
  table { font-size: 12.5px; } th, td { padding: 6px 3px; } thead th { font-size: 11.5px; }
  tbody th { white-space: normal; }
  .confusion td { padding: 4px 1px; min-width: 27px; } h1 { font-size: 25px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } }
@media print { * { print-color-adjust: exact; } body { background: white; }
  section, .tile, figure { break-inside: avoid; }
  .scroll { overflow: visible; } .scroll > svg { max-width: 100%; }
  .confusion td { padding: 4px 1px; min-width: 27px; } }
"""


class TaskSections(NamedTuple):
    """What the page shows of a task: names and numbers for its top, and the content of sections by title."""

    numbers: list[tuple[str, str]]
    sections: dict[str, list[str]]


def write_html(title: str, subtitle: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: the heading, text.
        subtitle: the line below it, HTML.
        body: the parts of the page, HTML.
    """
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f'<h1>{escape(title)}</h1>\n<p class="sub">{subtitle}</p>',
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def escape(text: object) -> str:
    """The text as HTML shows it."""
    return html.escape(str(text))


def breakable(text: object) -> str:
    """The same for a dotted name, which may be broken after a dot or an underscore."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", escape(text))


def number(value: SupportsFloat, digits: int = 3) -> str:
    """A number of a table; `-` for NaN."""
    return "-" if math.isnan(value) else f"{float(value):.{digits}f}"


def section(title: str, *content: str) -> str:
    """A titled part of the page. The content is HTML."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *content, "</section>"])


def note(text: str) -> str:
    """A line that explains what follows."""
    return f'<p class="note">{escape(text)}</p>'


def tiles(numbers: Iterable[tuple[str, object]]) -> str:
    """Names and numbers; the first one is the score."""
    shown = [
        f'<div class="tile{"" if position else " score"}"><b>{escape(value)}</b><span>{breakable(name)}</span></div>'
        for position, (name, value) in enumerate(numbers)
    ]
    return "\n".join(['<div class="tiles">', *shown, "</div>"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str, kind: str = "numbers") -> str:
    """A table of texts, whose first column names the rows. It scrolls where the screen is too narrow.

    Args:
        header: the names of the columns.
        rows: the rows.
        caption: what the table shows.
        kind: the CSS class; `"numbers"` aligns to the right.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    lines = [
        f'<tr><th scope="row">{breakable(first)}</th>{"".join(f"<td>{escape(text)}</td>" for text in others)}</tr>'
        for first, *others in rows
    ]
    parts = [f'<table class="{kind}"><caption>{escape(caption)}</caption>', f"<thead><tr>{head}</tr></thead><tbody>"]
    return scrolling(caption, "\n".join([*parts, *lines, "</tbody></table>"]))


def scrolling(label: str, content: str) -> str:
    """Content that scrolls sideways where it is too wide, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{content}\n</div>'


def pictures(images: Iterable[tuple[bytes, str]], caption: str) -> str:
    """PNG pictures with their descriptions, side by side above one caption."""
    shown = [
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}" alt="{escape(description)}">'
        for png, description in images
    ]
    content = f'<div class="beside">{"".join(shown)}</div>' if len(shown) > 1 else shown[0]
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"
