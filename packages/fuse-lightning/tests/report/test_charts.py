import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fuse_lightning.report.charts import confusion_table, line_chart, reliability_chart, scatter_chart, ticks
from fuse_lightning.report.wiring_drawing import wiring_drawing


class Balanced(HTMLParser):
    """Fails where elements are not closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("br", "img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass


def test_a_line_chart_draws_each_finite_point_of_each_mode():
    lines = {"train": [(0, 1.0), (1, 0.5), (2, float("nan"))], "validation": [(0, 1.2), (1, 0.7), (2, 0.6)]}
    chart = line_chart("loss <a>", lines, best_epoch=2)
    Balanced(chart)
    assert [len(points.split()) for points in re.findall(r'polyline points="([^"]*)"', chart)] == [2, 3]
    assert "loss &lt;a&gt;" in chart
    assert "best epoch (2)" in chart
    assert "nan" not in chart
    heights = [float(point.split(",")[1]) for point in re.search(r'polyline points="([^"]*)"', chart)[1].split()]
    assert heights[0] < heights[1]  # larger values are further up


def test_a_chart_of_nothing_is_nothing():
    assert line_chart("loss", {"train": [], "validation": [(0, float("inf"))]}, None) == ""


def test_a_single_epoch_of_a_constant_value_is_drawn():
    Balanced(line_chart("loss", {"train": [(0, 0.0)]}, 0))


@pytest.mark.parametrize("value", [3e20, -3e20])
def test_a_single_epoch_of_a_huge_value_is_drawn(value):
    Balanced(line_chart("loss", {"train": [(0, value)]}, 0))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.13, 0.94), (-3e-7, 5e-7), (0, 12345)])
def test_ticks_are_round_and_within_the_range(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert low - 1e-12 <= found[0] < found[-1] <= high + 1e-9
    assert all(len(f"{tick:.3g}") <= 8 for tick in found)


def test_epochs_have_whole_ticks():
    assert ticks(0, 2, whole=True) == [0, 1, 2]


def test_the_confusion_table_holds_every_count_with_its_classes():
    table = confusion_table(np.array([[8, 0], [3, 1]]), ["cat", "a & b"], "Confusion")
    Balanced(table)
    assert re.findall(r"<td style[^>]*>([^<]*)</td>", table) == ["8", "·", "3", "1"]
    assert '<th scope="row">a &amp; b</th>' in table


def test_the_confusion_table_of_pixels_holds_percentages_of_the_true_class():
    table = confusion_table(np.array([[750, 250], [0, 3]]), ["a", "b"], "Confusion", percent=True)
    assert re.findall(r"<td style[^>]*>([^<]*)</td>", table) == ["75.0", "25.0", "·", "100.0"]


def test_a_scatter_chart_draws_the_samples_whose_target_is_known():
    chart = scatter_chart("age", np.array([1.0, np.nan, 3.0]), np.array([1.5, 2.0, 2.0]))
    Balanced(chart)
    places = [tuple(map(float, pair)) for pair in re.findall(r'circle cx="([^"]*)" cy="([^"]*)"', chart)]
    assert len(places) == 2
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # larger predictions are further up


def test_a_scatter_chart_of_a_single_value_is_drawn():
    Balanced(scatter_chart("age", np.array([3.0]), np.array([3.0])))


def test_the_reliability_chart_has_a_bar_for_each_bin_with_samples():
    chart = reliability_chart(np.array([np.nan, 0.7, 0.9]), np.array([np.nan, 0.5, 1.0]), np.array([0.0, 0.25, 0.75]))
    Balanced(chart)
    assert chart.count("<rect") == 2
    assert "nan" not in chart


def test_the_wiring_is_drawn_with_every_component_and_key():
    writers = {"data.x": "the batch", "model.y": "Model 'model'"}
    readers = {"data.x": ["Model 'model'"], "model.y": ["Loss 'losses.<a>'", "Metric 'm'"]}
    drawing = wiring_drawing(writers, readers)
    Balanced(drawing)
    for name in ("the batch", "data.x", "model.y", "Loss &#x27;losses.&lt;a&gt;&#x27;", "Metric &#x27;m&#x27;"):
        assert f">{name}<" in drawing
    assert drawing.count("<path") == 5
