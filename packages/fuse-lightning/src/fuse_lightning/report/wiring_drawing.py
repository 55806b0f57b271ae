"""The wiring of a training step, drawn as SVG."""

from collections.abc import Mapping, Sequence

from .html_parts import escape, scrolling

ROW = 26
COLUMNS = (("written by", 10, 250), ("key", 310, 250), ("read by", 610, 300))


def wiring_drawing(writers: Mapping[str, str], readers: Mapping[str, Sequence[str]]) -> str:
    """Components on the left write keys in the middle, which components on the right read.

    Args:
        writers: who writes each key.
        readers: who reads each key.
    """
    keys = list(dict.fromkeys((*writers, *readers)))
    columns = [
        list(dict.fromkeys(writers.get(key, "") for key in keys if key in writers)),
        keys,
        list(dict.fromkeys(reader for key in keys for reader in readers.get(key, ()))),
    ]
    rows = max(map(len, columns))
    places = [
        {name: 44 + (rows - len(names)) * ROW / 2 + index * ROW for index, name in enumerate(names)}
        for names in columns
    ]
    lines = []
    for key in keys:
        pairs = [(0, writers[key], key)] if key in writers else []
        pairs += [(1, key, reader) for reader in readers.get(key, ())]
        for column, start, end in pairs:
            x1, x2 = COLUMNS[column][1] + COLUMNS[column][2], COLUMNS[column + 1][1]
            y1, y2 = places[column][start] - 4, places[column + 1][end] - 4
            lines.append(
                f'<path d="M{x1} {y1} C{x1 + 30} {y1} {x2 - 30} {y2} {x2} {y2}" fill="none" stroke="var(--faint)"/>'
            )
    for (title, x, width), names, ys in zip(COLUMNS, columns, places, strict=True):
        lines.append(f'<text class="faint" x="{x}" y="16">{title}</text>')
        for name in names:
            shown = name if len(name) < 44 else f"{name[:20]}…{name[-20:]}"
            lines.append(
                f'<rect x="{x}" y="{ys[name] - 16}" width="{width}" height="22" rx="5" fill="var(--paper)" '
                f'stroke="var(--line)"/><text x="{x + 8}" y="{ys[name]}">{escape(shown)}</text>'
            )
    height = 44 + rows * ROW
    label = "Wiring of a training step"
    svg = f'<svg viewBox="0 0 920 {height}" width="920" height="{height}" role="img" aria-label="{label}">'
    return scrolling(label, "\n".join([svg, *lines, "</svg>"]))
