"""Charts as SVG, whose colors follow the page's scheme."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .page import escape, scrolling

WIDTH, HEIGHT = 360, 240  # small, so that letters stay readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 36
MOST_POINTS = 1000
LINES = {"train": ("var(--train)", ""), "validation": ("var(--validation)", "6 3")}

Points = Sequence[tuple[float, float]]


def line_chart(title: str, lines: Mapping[str, Points], best_epoch: int | None) -> str:
    """A value over the epochs, for training and validation.

    Args:
        title: what is drawn.
        lines: points of epoch and value, by mode.
        best_epoch: the epoch to mark.
    """
    lines = {mode: [point for point in points if math.isfinite(point[1])] for mode, points in lines.items()}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    if not xs:
        return ""
    frame = _Frame((min(xs), max(max(xs), min(xs) + 1)), (min(ys), max(ys)), "epoch", whole_x=True)
    parts = [frame.svg]
    if best_epoch is not None:
        x = frame.x(best_epoch)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="var(--faint)" '
            f'stroke-dasharray="2 3"/>'
        )
    legend = []
    for mode, points in lines.items():
        if points:
            color, dash = LINES.get(mode, ("var(--ink)", "1 2"))
            path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
            if len(points) < 40:
                parts += [
                    f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5" fill="{color}"/>' for x, y in points
                ]
            line = "┅" if dash else "━"
            legend.append(
                f'<span class="legend"><span aria-hidden="true" style="color:{color}">{line}</span> {mode}</span>'
            )
    if best_epoch is not None:
        legend.append(f'<span class="legend"><span aria-hidden="true">┊</span> best epoch ({best_epoch})</span>')
    last = ", ".join(f"{mode} {points[-1][1]:.4g}" for mode, points in lines.items() if points)
    return _figure(title, f"{title} over the epochs; in the last one {last}", parts, "".join(legend))


def reliability_chart(confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray) -> str:
    """The accuracy of the predictions at each confidence. Calibrated predictions lie on the diagonal.

    Args:
        confidence: mean confidence of each bin, shape [bins]; NaN for empty bins.
        accuracy: accuracy of each bin, shape [bins].
        share: share of the samples in each bin, shape [bins].
    """
    frame = _Frame((0, 1), (0, 1), "confidence")
    bins = len(confidence)
    parts = [frame.svg]
    for index in np.flatnonzero(share > 0):
        left, right = frame.x(index / bins), frame.x((index + 1) / bins)
        y = frame.y(float(accuracy[index]))
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
            f'fill="var(--train)" opacity="{0.35 + 0.65 * min(1, 4 * share[index]):.2f}"/>'
        )
        x = frame.x(float(confidence[index]))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--validation)"/>')
    parts.append(
        f'<line x1="{frame.x(0)}" y1="{frame.y(0)}" x2="{frame.x(1)}" y2="{frame.y(1)}" stroke="var(--ink)" '
        f'stroke-dasharray="4 3"/>'
    )
    return _figure(
        "Accuracy by confidence",
        "Accuracy of the predictions of each confidence",
        parts,
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
    frame = _Frame(ends, ends, "true")
    every = math.ceil(len(target) / MOST_POINTS)
    (x1, y1), (x2, y2) = ((frame.x(end), frame.y(end)) for end in ends)
    line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    parts = [frame.svg, f'<line {line} stroke="var(--ink)" stroke-dasharray="4 3"/>']
    parts += [
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5" fill="var(--train)" opacity="0.6"/>'
        for x, y in zip(target[::every].tolist(), predicted[::every].tolist(), strict=True)
    ]
    shown = f" One of {every} samples is shown." if every > 1 else ""
    legend = f"Up: predicted. Right: true. On the dashed line, both are equal.{shown}"
    return _figure(title, f"Predicted against true values of {len(target)} samples", parts, legend)


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


class _Frame:
    """The axes of a chart, and where values lie in it."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], x_label: str, whole_x: bool = False) -> None:
        margin = 0.0 if xs == (0, 1) and ys == (0, 1) else 0.05 * (ys[1] - ys[0]) or 0.5
        beside = 0.0 if whole_x or margin == 0 else margin
        self.xs, self.ys = (xs[0] - beside, xs[1] + beside), (ys[0] - margin, ys[1] + margin)
        parts = []
        for y in ticks(*self.ys):
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(y):.1f}" y2="{self.y(y):.1f}"/>'
            )
            parts.append(f'<text class="faint" x="{LEFT - 6}" y="{self.y(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
        for x in ticks(*self.xs, whole=whole_x):
            parts.append(
                f'<text class="faint" x="{self.x(x):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{x:.4g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="faint" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{x_label}</text>')
        self.svg = "\n".join(parts)

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.xs[0]) / (self.xs[1] - self.xs[0])

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.ys[0]) / (self.ys[1] - self.ys[0])


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


def _figure(title: str, description: str, parts: Sequence[str], legend: str) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
    caption = f"<figcaption><b>{escape(title)}</b><br>{legend}</figcaption>"
    return "\n".join([f"<figure>{caption}{svg}", *parts, "</svg></figure>"])
