"""Axes hold what is drawn on them, and what is drawn lies where its values say."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resnet_infer.reporting.charts import (
    COLOURS,
    Axis,
    Chart,
    Dot,
    colour,
    heat_map,
    legend,
    linear,
    log_axis,
    logarithmic,
    round_axis,
)
from resnet_infer.reporting.html import document

TIMES = st.floats(1e-3, 1e5)
EVIL = "<script>alert('&')</script>"


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg("a title"))


def texts(drawing: ElementTree.Element, kind: str) -> list[str]:
    return [item.text or "" for item in drawing.iter("text") if item.get("class") == kind]


def places(drawing: ElementTree.Element, tag: str = "circle") -> list[tuple[float, float]]:
    return [(float(item.get("cx", 0)), float(item.get("cy", 0))) for item in drawing.iter(tag)]


@example(87.0, 87.0)
@given(TIMES, TIMES)
def test_axes_hold_all_there_is(one: float, other: float) -> None:
    low, high = sorted((one, other))
    start, stop, ticks = round_axis(low, high)
    assert start <= low
    assert high <= stop
    assert 2 <= len(ticks) <= 10
    marks = log_axis(low, high)
    assert marks[0] <= low * 1.0001
    assert high <= marks[-1] * 1.0001
    assert marks == sorted(set(marks))


@pytest.mark.parametrize("value", [0.5, 24.0])
def test_one_value_has_an_axis_too(value: float) -> None:
    start, stop, ticks = round_axis(value, value)
    assert start <= value <= stop
    assert start < stop
    assert len(ticks) >= 2


@pytest.mark.parametrize("log", [False, True])
def test_dots_lie_where_their_values_say(log: bool) -> None:
    """At the ends and in the middle of an area of 200 by 100 pixels."""
    x = logarithmic("ms", 1, 100, ticks=(1, 10, 100)) if log else linear("ms", 0, 100, ticks=(0, 50, 100))
    chart = Chart(x, linear("%", 0, 100), (200, 100), left=50)
    for value in x.ticks:
        chart.dot(value, 50, colour(0))
    drawing = drawn(chart)
    assert places(drawing) == [(50, 64), (150, 64), (250, 64)]
    assert texts(drawing, "small")[-5:-2] == [f"{tick:g}" for tick in x.ticks]
    assert texts(drawing, "small")[-2:] == ["ms", "%"]


def test_an_axis_may_run_backwards() -> None:
    """Rows from the top down, without ticks."""
    chart = Chart(linear("", 0, 1, unit="%"), Axis("", 4, 0), (200, 100), left=50)
    chart.row(0.5, 0.5, (0.25, 1), colour(1), "label", "title")
    drawing = drawn(chart)
    assert places(drawing) == [(150, 14 + 12.5)]
    (whisker,) = (item for item in drawing.iter("line") if "whisker" in str(item.get("class")))
    assert [whisker.get(name) for name in ("class", "x1", "x2", "y1", "y2")] == [
        *("c1 whisker", "100.0", "250.0"),
        *("26.5", "26.5"),
    ]
    assert "1%" in texts(drawing, "small")


def test_numbers_of_ticks_do_not_lie_on_each_other() -> None:
    ticks = (1_000, 1_001, 1_002, 1_200)
    drawing = drawn(Chart(linear("batch size", 1_000, 1_200, ticks=ticks), Axis("", 0, 1), (200, 100)))
    assert texts(drawing, "small") == ["1,000", "1,200", "batch size"]
    assert sum(item.get("class") == "grid" for item in drawing.iter("line")) == 4


def test_colours_are_told_apart_and_a_ninth_is_dashed() -> None:
    kinds = [colour(number) for number in range(2 * COLOURS)]
    assert len(set(kinds)) == 2 * COLOURS
    assert kinds[COLOURS] == f"{kinds[0]} dashed"
    css = document("title", [], _empty_style())
    light, dark = css.partition("@media (prefers-color-scheme: dark) {\n  :root { --c0")[::2]
    for number in range(COLOURS):
        assert f".c{number} {{ --own: var(--c{number}) }}" in css
        assert f"--c{number}: #" in light
    assert dark.partition("}")[0].count("--c") == COLOURS - 1  # the first is in the separator


def _empty_style() -> Path:
    return Path(__file__).parents[2] / "resnet_infer" / "evaluation" / "report.css"


def test_what_it_is_told_is_escaped() -> None:
    chart = Chart(linear(EVIL, 0, 1), linear(EVIL, 0, 1))
    chart.line([(0, 0), (1, 1)], colour(0), EVIL, marks=True)
    chart.dots([Dot(0.5, 0.5, 0.4, 0.6, colour(1), EVIL, EVIL)])
    chart.row(0.5, 0.5, (0, 1), colour(1), EVIL, EVIL)
    chart.square(0.5, 0.5, EVIL)
    chart.bound(0.5, EVIL)
    chart.crosses([0.5], EVIL, lambda value: EVIL)
    table = heat_map([EVIL, "{row}"], [[1, 0], [0, 1]], [1, 1], EVIL, "{row} " + EVIL)
    for text in (chart.svg(EVIL), table):
        ElementTree.fromstring(text)
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    assert "<script" not in legend([("c0", EVIL)])
    assert legend([]) == ""


def test_a_heat_map_says_each_count_and_colours_by_the_share_of_its_row() -> None:
    text = heat_map(
        ["a", "b", "c"], [[4, 0, 12], [0, 0, 0], [0, 0, 3]], [16, 0, 3], "t", "{row}-{column} {count}/{total}"
    )
    cells = [item for item in ElementTree.fromstring(text).iter("rect") if item.get("class") != "frame"]
    assert [(item.findtext("title"), item.get("class")) for item in cells] == [
        *(("a-a 4/16", "right"), ("a-b 0/16", "wrong"), ("a-c 12/16", "wrong")),
        *(("c-a 0/3", "wrong"), ("c-b 0/3", "wrong"), ("c-c 3/3", "right")),
    ]
    shades = [float(item.get("fill-opacity", -1)) for item in cells]
    assert shades[1] == 0 < shades[0] < shades[2] < shades[5] == 1


def test_bars_and_crosses() -> None:
    chart = Chart(linear("x", 0, 100), linear("y", 0, 1), (200, 100))
    chart.bars([(0, 1), (50, 4)])
    chart.crosses([100, 99, 10], "failed", lambda value: f"{value:g}")
    drawing = drawn(chart)
    assert [(item.get("height"), item.get("y")) for item in drawing.iter("rect")] == [
        ("12.5", "101.5"),
        ("50.0", "64.0"),
    ]
    assert len(list(drawing.iter("path"))) == 3
    assert texts(drawing, "small halo") == ["failed", "failed"]  # two of the three lie too close for two labels
