"""Charts as SVG, whose colors follow the page's scheme."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .html_parts import escape, scrolling

WIDTH, HEIGHT = 360, 240  # small, so that letters stay readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 36
MOST_POINTS = 1000
LINES = {"train": ("var(--train)", ""), "validation": ("var(--validation)", "6 3")}

Points = Sequence[tuple[float, float]]


def line_chart(title: str, lines: Mapping[str, Points], best_epoch: int | None) -> str:
    """A value over the epochs, for training and validation; empty without a finite value.

    Args:
        title: what is drawn.
        lines: points of epoch and value, by mode.
        best_epoch: the epoch to mark.
    """
    finite = {mode: [point for point in points if math.isfinite(point[1])] for mode, points in lines.items()}
    lines = {mode: points for mode, points in finite.items() if points}
    if not lines:
        return ""
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    chart = _Chart((min(xs), max(max(xs), min(xs) + 1)), (min(ys), max(ys)), "epoch", whole_x=True)
    legend = []
    for mode, points in lines.items():
        color, dash = LINES[mode]
        chart.curve(points, color, dash)
        if len(points) < 40:
            chart.dots(points, color)
        legend.append(f'<span aria-hidden="true" style="color:{color}">{"┅" if dash else "━"}</span> {mode}')
    if best_epoch is not None:
        chart.line((best_epoch, chart.ys[0]), (best_epoch, chart.ys[1]), "var(--faint)", "2 3")
        legend.append(f'<span aria-hidden="true">┊</span> best epoch ({best_epoch})')
    last = ", ".join(f"{mode} {points[-1][1]:.4g}" for mode, points in lines.items())
    return chart.figure(
        title,
        f"{title} over the epochs; in the last one {last}",
        "".join(f'<span class="legend">{entry}</span>' for entry in legend),
    )


def reliability_chart(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> str:
    """The accuracy of the predictions at each confidence. Calibrated predictions lie on the diagonal.

    Args:
        confidence: mean confidence of each bin, shape [bins]; NaN for empty bins.
        accuracy: accuracy of each bin, shape [bins].
        share: share of the samples in each bin, shape [bins].
    """
    chart = _Chart((0, 1), (0, 1), "confidence")
    bins = len(confidence)
    for index in np.flatnonzero(share > 0).tolist():
        chart.bar(index / bins, (index + 1) / bins, accuracy[index], 0.35 + 0.65 * min(1, 4 * share[index]))
        chart.dots([(confidence[index], accuracy[index])], "var(--validation)")
    chart.line((0, 0), (1, 1), "var(--ink)", "4 3")
    return chart.figure(
        "Accuracy by confidence",
        "Accuracy of the predictions of each confidence",
        "Darker bars hold more samples. On the dashed line, accuracy equals confidence.",
    )


def scatter_chart(title: str, target: np.ndarray, predicted: np.ndarray) -> str:
    """Predicted against true numbers. Exact predictions lie on the diagonal.

    Args:
        title: what is drawn.
        target: shape [samples], NaN for unknown.
        predicted: shape [samples].
    """
    known = np.isfinite(target)
    target, predicted = target[known], predicted[known]
    ends = float(min(target.min(), predicted.min())), float(max(target.max(), predicted.max()))
    chart = _Chart(ends, ends, "true")
    every = math.ceil(len(target) / MOST_POINTS)
    chart.line((ends[0], ends[0]), (ends[1], ends[1]), "var(--ink)", "4 3")
    chart.dots(list(zip(target[::every], predicted[::every], strict=True)), "var(--train)", opacity=0.6)
    shown = f" One of {every} samples is shown." if every > 1 else ""
    legend = f"Up: predicted. Right: true. On the dashed line, both are equal.{shown}"
    return chart.figure(title, f"Predicted against true values of {len(target)} samples", legend)


def confusion_table(counts: np.ndarray, classes: Sequence[str], label: str, percent: bool = False) -> str:
    """How often each class was predicted as which, a table with a row for each true class.

    Args:
        counts: shape [true class, predicted class].
        classes: the names of the classes.
        label: the name of the table.
        percent: show percentages of the true class, for large counts such as pixels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    lines = []
    for name, row, row_shares in zip(classes, counts, shares, strict=True):
        texts = [f"{100 * share:.1f}" for share in row_shares] if percent else [str(count) for count in row]
        cells = [_confusion_cell(text, share) for text, share in zip(texts, row_shares, strict=True)]
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    caption = "Rows: true class. Columns: predicted class."
    whole = f'<table class="confusion"><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead><tbody>'
    return scrolling(label, "\n".join([whole, *lines, "</tbody></table>"]))


def _confusion_cell(text: str, share: float) -> str:
    """A cell whose letters are readable: on a light ground for small shares, on a strong one for the others."""
    strength = 90 * share if share < 0.45 else 88 + 12 * share
    much = "" if share < 0.45 else ' class="much"'
    ground = f"background:color-mix(in srgb, var(--heat) {strength:.0f}%, var(--card))"
    return f'<td style="{ground}"{much}>{"·" if text in ("0", "0.0") else text}</td>'


class _Chart:
    """Axes, and what is drawn between them. Places are given as values."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], x_label: str, whole_x: bool = False) -> None:
        margin = 0.0 if xs == (0, 1) and ys == (0, 1) else 0.05 * (ys[1] - ys[0]) or max(0.5, 0.05 * abs(ys[0]))
        beside = 0.0 if whole_x else margin
        self.xs, self.ys = (xs[0] - beside, xs[1] + beside), (ys[0] - margin, ys[1] + margin)
        self.parts = []
        for y in ticks(*self.ys):
            height = self._y(y)
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            )
            self._text(LEFT - 6, height + 4, f"{y:.4g}", "end")
        for x in ticks(*self.xs, whole=whole_x):
            self._text(self._x(x), HEIGHT - 20, f"{x:.4g}")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label)

    def _x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.xs[0]) / (self.xs[1] - self.xs[0])

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.ys[0]) / (self.ys[1] - self.ys[0])

    def _text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        self.parts.append(f'<text class="faint" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>')

    def line(self, start: tuple[float, float], end: tuple[float, float], color: str, dash: str) -> None:
        (x1, y1), (x2, y2) = ((self._x(x), self._y(y)) for x, y in (start, end))
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {place} stroke="{color}" stroke-dasharray="{dash}"/>')

    def curve(self, points: Points, color: str, dash: str) -> None:
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        style = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
        self.parts.append(f'<polyline points="{path}" {style}/>')

    def dots(self, points: Points, color: str, opacity: float = 1.0) -> None:
        style = f'r="2.5" fill="{color}" opacity="{opacity}"'
        self.parts += [f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" {style}/>' for x, y in points]

    def bar(self, left: float, right: float, top: float, opacity: float) -> None:
        x, y, width = self._x(left), self._y(top), self._x(right) - self._x(left) - 1
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
        self.parts.append(f'<rect {place} fill="var(--train)" opacity="{opacity:.2f}"/>')

    def figure(self, title: str, description: str, legend: str) -> str:
        svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        caption = f"<figcaption><b>{escape(title)}</b><br>{legend}</figcaption>"
        return "\n".join([f"<figure>{caption}{svg}", *self.parts, "</svg></figure>"])


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round numbers from low to high.

    Example:
        >>> ticks(0.13, 0.94)
        [0.2, 0.4, 0.6, 0.8]
    """
    step = (high - low) / count
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
