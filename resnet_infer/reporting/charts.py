"""Draw charts as SVG that stands inside a page: axes, ticks, lines, dots, bars, error bars, heat maps and legends.

Everything is drawn in classes whose colours `charts.css` sets, so that a drawing is light or dark as its page is. Which
data go into a chart is for its caller to choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
"""Number of colours that are told apart. A ninth series has the first colour, but dashed."""
SIZE = 396, 300
"""Width and height of the area inside the axes, in pixels."""
LEFT, RIGHT, TOP = 58, 16, 14
"""Pixels beside and above that area."""
BELOW_TICKS, BELOW_LABEL = 24, 44
"""Pixels below it: for the numbers of the ticks, and with the label of the axis under them."""
LETTER = 6.6
"""Width of a letter of a label, in pixels, about."""
SMALL_LETTER = 6.8
"""Width of a digit of a tick, in pixels, with some room."""
BAR_WIDTH, BAR_HEIGHT = 10, 50
"""Width of a bar and height of the highest one, in pixels."""
NUMBERED = 12
"""Most rows of a heat map whose cells show their numbers."""


@dataclass(frozen=True)
class Axis:
    """Hold an axis: its label, the values at its ends, and those of its ticks, in ascending order.

    `low` may be greater than `high`; the axis then runs backwards. `unit` is written behind the numbers of the ticks.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float] = ()
    log: bool = False
    unit: str = ""

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(
    label: str, low: float, high: float, *, ticks: Sequence[float] | None = None, least: float = 0.0, unit: str = ""
) -> Axis:
    """Return an axis around `low` to `high` that ends at round numbers; its ticks are `least` or more apart."""
    start, stop, marks = round_axis(low, high, least=least)
    return Axis(label, start, stop, ticks or marks, unit=unit)


def logarithmic(label: str, low: float, high: float, *, ticks: Sequence[float] | None = None) -> Axis:
    """Return a logarithmic axis around `low` to `high`, or one that ends there if the ticks are given."""
    if ticks is None:
        marks = log_axis(low, high)
        return Axis(label, marks[0], marks[-1], marks, log=True)
    return Axis(label, low, high if high > low else 2 * low, ticks, log=True)


def round_axis(low: float, high: float, *, least: float = 0.0, ticks: int = 7) -> tuple[float, float, list[float]]:
    """Return a range around `low` to `high`, and at most about `ticks` round numbers in it, `least` or more apart."""
    span = max(high - low, abs(high) * 1e-6, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / ticks))
    step = max(next(unit * power for unit in (1, 2, 2.5, 5, 10, 20) if span / (unit * power) <= ticks), least)
    start, stop = math.floor(low / step), math.ceil(high / step)
    stop = max(stop, start + 1)
    marks = [round(step * number, 12) for number in range(start, stop + 1)]
    return min(start * step, low), max(stop * step, high), marks  # a product may miss by the last digit


def log_axis(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten between two positive ones, those around them included."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    marks = [unit * 10.0**power for power in range(first, last + 1) for unit in (1, 2, 5)]
    start = max(number for number, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    stop = min(number for number, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
    return [round(mark, 12) for mark in marks[start : max(stop, start + 1) + 1]]


def colour(number: int) -> str:
    """Return the class of a series by its number from 0 on."""
    return f"c{number % COLOURS}" + (" dashed" if number // COLOURS % 2 else "")


def legend(keys: Sequence[tuple[str, str]]) -> str:
    """Return the legend of a chart as HTML: the class of a mark and its text, or nothing without keys.

    The class is that of a line, with " dot" behind it of a dot, or `published`.
    """
    marks = "".join(f'<span><i class="{kind}"></i>{escape(text, quote=False)}</span>' for kind, text in keys)
    return f'<div class="keys">{marks}</div>' if marks else ""


def cut(text: str, most: int) -> str:
    """Return at most so many characters of a text; an ellipsis stands for the rest."""
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Dot:
    """Hold a dot with an error bar from `low` to `high` along the vertical axis, and a label beside it."""

    x: float
    y: float
    low: float
    high: float
    kind: str
    label: str
    title: str


class Chart:
    """Draw on two axes. Every method takes values of the axes and adds to the drawing; `svg` returns it.

    `kind` is a class of `charts.css`, for series see `colour`. A title is what is shown under the pointer.

        chart = Chart(logarithmic("batch size", 1, 8, ticks=(1, 8)), linear("pictures/s", 0, 900))
        chart.line([(1, 200), (8, 900)], colour(0), "resnet50", marks=True)
        html = chart.svg("Throughput by batch size")
    """

    def __init__(self, x: Axis, y: Axis, size: tuple[int, int] = SIZE, *, left: int = LEFT, right: int = RIGHT) -> None:
        self._x_axis, self._y_axis = x, y
        self._left, self._right, self._bottom = left, left + size[0], TOP + size[1]
        self._width = self._right + right
        self._height = self._bottom + (BELOW_LABEL if x.label else BELOW_TICKS)
        self._parts: list[str] = []
        for tick in y.ticks:
            place = self._y(tick)
            self._rule("grid", (self._left, place), (self._right, place))
            self._text(f"{tick:,.6g}{y.unit}", self._left - 7, place + 4, "small", anchor="end")
        free = -1.0
        for tick in x.ticks:
            place, text = self._x(tick), f"{tick:,.6g}{x.unit}"
            self._rule("grid", (place, TOP), (place, self._bottom))
            half = SMALL_LETTER / 2 * len(text)
            if place - half > free:
                self._text(text, place, self._bottom + 17, "small", anchor="middle")
                free = place + half + 4
        if x.label:
            self._text(x.label, (self._left + self._right) / 2, self._bottom + 36, "small", anchor="middle")
        if y.label:
            self._parts.append(
                f'<text class="small" text-anchor="middle" transform="translate(13 {(TOP + self._bottom) / 2:g}) '
                f'rotate(-90)">{escape(y.label)}</text>'
            )

    def svg(self, title: str) -> str:
        """Return the drawing. The title is for those who hear the page."""
        return svg(self._width, self._height, title, self._parts)

    def line(self, points: Sequence[tuple[float, float]], kind: str, title: str, *, marks: bool = False) -> None:
        """Join points (x, y) in their order; `marks` draws a dot at each, with its values as the title."""
        self._polyline(points, f"{kind} curve", title)
        for x, y in points if marks else ():
            self.dot(x, y, kind, f"{title}: {x:,.6g}, {y:,.4g}", radius=3.5)

    def trend(self, points: Sequence[tuple[float, float]]) -> None:
        """Join points with a thin dotted line, which leads the eye and is no series."""
        self._polyline(points, "frontier")

    def dot(self, x: float, y: float, kind: str, title: str = "", *, radius: float = 5) -> None:
        """Draw a dot."""
        self._parts.append(self._dot(x, y, kind, radius, title))

    def dots(self, dots: Sequence[Dot]) -> None:
        """Draw dots with error bars, and their labels where they hide neither dots nor each other."""
        places = [(self._x(dot.x), self._y(dot.y)) for dot in dots]
        taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        for dot, (x, y) in zip(dots, places, strict=True):
            beside, above = self._free(x, y, LETTER * len(dot.label), taken)
            self._parts.append(f"<g><title>{escape(dot.title)}</title>")
            self._rule(f"{dot.kind} whisker", (x, self._y(dot.low)), (x, self._y(dot.high)))
            self._parts.append(self._dot(dot.x, dot.y, dot.kind, 5))
            self._text(dot.label, beside, above, "halo")
            self._parts.append("</g>")

    def row(self, y: float, x: float, ends: tuple[float, float], kind: str, label: str, title: str) -> None:
        """Draw a dot with an error bar along the horizontal axis, and its label to the left of the axes."""
        place = self._y(y)
        self._parts.append(f"<g><title>{escape(title)}</title>")
        self._text(label, self._left - 14, place + 4, anchor="end")
        self._rule(f"{kind} whisker", (self._x(ends[0]), place), (self._x(ends[1]), place))
        self._parts.append(self._dot(x, y, kind, 5) + "</g>")

    def square(self, x: float, y: float, title: str) -> None:
        """Draw the hollow square of a published figure."""
        self._parts.append(
            f'<rect class="published" x="{self._x(x) - 4.5:.1f}" y="{self._y(y) - 4.5:.1f}" width="9" height="9">'
            f"<title>{escape(title)}</title></rect>"
        )

    def bound(self, y: float, label: str) -> None:
        """Draw a line across, which is to be kept below, with its label."""
        place = self._y(y)
        self._rule("bound", (self._left, place), (self._right, place))
        self._text(label, self._left + 5, place - 5, "small halo")

    def diagonal(self) -> None:
        """Draw a line from corner to corner."""
        self._rule("diagonal", (self._left, self._bottom), (self._right, TOP))

    def bars(self, points: Sequence[tuple[float, float]]) -> None:
        """Draw bars (x, count) at the bottom; they have no axis, and the highest is `BAR_HEIGHT` pixels."""
        most = max(count for _, count in points)
        for x, count in points:
            height = BAR_HEIGHT * count / most
            self._parts.append(
                f'<rect class="count" x="{self._x(x) - BAR_WIDTH / 2:.1f}" y="{self._bottom - height:.1f}" '
                f'width="{BAR_WIDTH}" height="{height:.1f}"/>'
            )

    def crosses(self, values: Sequence[float], label: str, title: Callable[[float], str]) -> None:
        """Draw a cross at the top for values x that have no y, with the label where there is room for it."""
        free = float("inf")
        for value in sorted(values, reverse=True):
            x, y = self._x(value), TOP + 7
            self._parts.append(
                f'<g><title>{escape(title(value))}</title><path class="cross" d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8"/>'
            )
            if x + 5 < free:
                self._text(label, x + 5, y + 16, "small halo", anchor="end")
                free = x - 35
            self._parts.append("</g>")

    def _x(self, value: float) -> float:
        return self._left + (self._right - self._left) * self._x_axis.share(value)

    def _y(self, value: float) -> float:
        return self._bottom - (self._bottom - TOP) * self._y_axis.share(value)

    def _rule(self, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        (x1, y1), (x2, y2) = start, end
        self._parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, text: str, x: float, y: float, kind: str = "", anchor: str = "") -> None:
        more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
        self._parts.append(f'<text{more} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')

    def _polyline(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        places = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{kind}" points="{places}">{_title(title)}</polyline>')

    def _dot(self, x: float, y: float, kind: str, radius: float, title: str = "") -> str:
        place = f'cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:g}"'
        return f'<circle class="{kind}" {place}>{_title(title)}</circle>'

    def _free(
        self, x: float, y: float, width: float, taken: list[tuple[float, float, float, float]]
    ) -> tuple[float, float]:
        """Return where a label beside a dot begins, off the boxes that are `taken`, and add its own to them."""
        # Above on the right and below on the left, a label keeps off a line that falls.
        sides = [start for start in (x + 9, x - 9 - width) if self._left < start < self._width - width]
        sides = sides or [self._left + 2]
        for step in range(self._bottom):
            for start in sides:
                line = y - 7 - 4 * step if start > x else y + 19 + 4 * step
                inside = TOP + 12 < line < self._bottom
                if inside and not any(
                    start < right and left < start + width and line - 12 < bottom and top < line + 3
                    for left, top, right, bottom in taken
                ):
                    taken.append((start, line - 12, start + width, line + 3))
                    return start, line
        return sides[0], y - 7


def heat_map(
    heads: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int], title: str, cell_title: str
) -> str:
    """Draw a square table of counts, whose colours are shares of `totals`, those of the rows: a confusion matrix.

    The diagonal is blue and the rest orange. `cell_title` is a format of the `row` and `column` heads, the `count` and
    the `total`. Rows whose total is 0 are empty.
    """
    size = len(heads)
    side = 34 if size <= NUMBERED else 18 if size > 30 else 22
    letters = min(max(map(len, heads)), 30)
    left, top = 16 + int(6.4 * letters), 16 + int(4.6 * letters)
    parts = []
    for number, head in enumerate(heads):
        place = side * (number + 0.5)
        text = f"{escape(cut(head, 30))}<title>{escape(head)}</title>"
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{top + place + 4:.1f}">{text}</text>')
        parts.append(
            f'<text class="small" transform="translate({left + place + 3:.1f} {top - 6}) rotate(-45)">{text}</text>'
        )
    for row, column in ((row, column) for row in range(size) if totals[row] for column in range(size)):
        count, total = int(counts[row][column]), int(totals[row])
        kind = "right" if row == column else "wrong"
        about = cell_title.format(row=heads[row], column=heads[column], count=count, total=total)
        x, y, share = left + side * column, top + side * row, count / total
        opacity = 0.08 + 0.92 * share**0.5 if count else 0
        parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" '
            f'fill-opacity="{opacity:.3f}">{_title(about)}</rect>'
        )
        if count and size <= NUMBERED:
            shade = " dark" if share > 0.35 else ""
            parts.append(
                f'<text class="cell{shade}" text-anchor="middle" x="{x + side / 2 - 0.5}" '
                f'y="{y + side / 2 + 3.5}">{count}</text>'
            )
    parts.append(f'<rect class="frame" x="{left - 0.5}" y="{top - 0.5}" width="{side * size}" height="{side * size}"/>')
    return svg(left + side * size + int(4.6 * letters) + 10, top + side * size + 8, title, parts)


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a drawing of SVG elements."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
