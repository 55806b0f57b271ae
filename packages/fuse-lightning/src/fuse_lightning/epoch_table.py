"""The table that is printed after an epoch: a row for each value, with training and validation side by side."""

import importlib.util
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

EPOCH_SECONDS = "epoch seconds"
MODES = {"train": "train", "val": "validation", "": ""}
NAME = re.compile(r"(train|val)(?:ing|id|idation)?[._/](.+)")


def epoch_table(
    best: Mapping[str, float],
    current: Mapping[str, float],
    title: str,
    monitor: str,
    improved: Collection[str] = (),
    color: bool | None = None,
) -> str:
    """The table of the best and the current epoch.

    The values of single classes are left out if their mean is among the values: `metrics.dice.mean (+2)` stands for
    `metrics.dice.mean` and two classes. Learning rates and the epoch's duration follow the title.

    Args:
        best: the best epoch's values by logged name; none if there is no best epoch yet.
        current: the current epoch's values.
        title: the line above the table.
        monitor: the value that decides the best epoch. Its row is marked with `*`.
        improved: names of current values that are better than in all earlier epochs. They are marked with `+`.
        color: whether to use rich's colors. None uses them if rich is installed and the output is a terminal.

    Example:
        >>> values = {"train.losses.cls": 0.25, "validation.losses.cls": 0.5, "lr-SGD": 0.1}
        >>> print(epoch_table({}, values, "Epoch 0", monitor="validation.losses.cls", color=False))
        Epoch 0, lr-SGD 0.1
        <BLANKLINE>
        |              | best train | best validation |  train | validation |
        |:-------------|-----------:|----------------:|-------:|-----------:|
        | losses.cls * |          - |               - | 0.2500 |     0.5000 |
    """
    if color is None:
        color = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    notes, rows = epoch_rows(best, current, monitor, improved)
    title = ", ".join([title, *notes])
    return _with_rich(title, rows) if color else f"{title}\n\n{markdown_table(rows)}"


def epoch_rows(
    best: Mapping[str, float],
    current: Mapping[str, float],
    monitor: str,
    improved: Collection[str] = (),
    fold: bool = True,
) -> tuple[list[str], list[list[str]]]:
    """The notes and the rows of `epoch_table`. The first row is the header. `fold` leaves out single classes."""
    names = sorted({*best, *current})
    asides = [name for name in names if name == EPOCH_SECONDS or name.startswith("lr-")]
    notes = [f"{name.removeprefix('epoch ')} {cell(name, current[name])}" for name in asides if name in current]
    folded = _folded(names) if fold else set()
    by_label: dict[str, dict[str, str]] = {}  # the logged names of each row, by mode
    for name in names:
        if name not in folded and name not in asides:
            mode, label = _mode_and_label(name)
            if mode == "train" and name.removesuffix("_step") not in names:
                label = label.removesuffix("_step")  # an epoch without an end has only the means of its last steps
            by_label.setdefault(label, {})[mode] = name
    modes = [mode for mode in MODES if any(mode in row for row in by_label.values())]
    columns = [(kind, mode, values) for kind, values in (("best", best), ("", current)) for mode in modes]
    rows = [["", *(f"{kind} {MODES[mode]}".strip() or "current" for kind, mode, _ in columns)]]
    classes = {_mode_and_label(name)[1] for name in folded}
    for label, row in by_label.items():
        hidden = sum(name.startswith(label.removesuffix("mean")) for name in classes) if label.endswith("mean") else 0
        first = (f"{label} (+{hidden})" if hidden else label) + (" *" if monitor in row.values() else "")
        texts = [first]
        for kind, mode, values in columns:
            mark = " +" if not kind and row.get(mode) in improved else ""
            texts.append(cell(label, values.get(row.get(mode, ""))) + mark)
        rows.append(texts)
    return notes, rows


def _mode_and_label(name: str) -> tuple[str, str]:
    """The mode of a logged name, and the rest of it."""
    match = NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def _folded(names: Sequence[str]) -> set[str]:
    """The names of single classes, beside which their mean is logged."""
    groups = tuple(name.removesuffix("mean") for name in names if re.search(r"[./]mean$", name))
    return {name for name in names if name.startswith(groups) and not name.endswith("mean")} if groups else set()


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table as text. The first row is the header. The first column is aligned left, all others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        texts = [f"{label:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(cells, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(texts)} |")
    rule = "|:" + "-" * widths[0] + "-|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([lines[0], rule, *lines[1:]])


def _with_rich(title: str, rows: Sequence[Sequence[str]]) -> str:
    """The same for a terminal: values that improved are green, the monitored row is bold."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, header_style="dim", pad_edge=False)
    for column, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if column else "left", overflow="fold")
    for label, *cells in rows[1:]:
        styled: list[Any] = [f"[green]{text}[/green]" if text.endswith("+") else text for text in cells]
        table.add_row(label.removesuffix(" *"), *styled, style="bold" if label.endswith(" *") else None)
    console = Console(force_terminal=True)
    with console.capture() as capture:
        console.print(title, style="bold", highlight=False, markup=False)
        console.print(table)
    return capture.get().rstrip()


def cell(name: str, value: float | None) -> str:
    """A value with at most four significant digits; `-` for None."""
    if value is None:
        return "-"
    if name == EPOCH_SECONDS:
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if name.startswith("lr-"):
        return f"{value:.4g}"  # 0.001, not 0.001000
    return f"{value:#.4g}".rstrip(".")
