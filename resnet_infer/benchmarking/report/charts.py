"""Drawings for the page of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from resnet_infer.reporting.html import cut, log_axis, round_axis, svg

COLOURS = 8
"""So many series look different; a ninth looks like the first, but dashed."""
WIDTH, HEIGHT, LEFT, TOP = 470, 300, 58, 14
LETTER = 6.6
"""About the width of a letter."""
WIDE = 20
"""From a range of so many times its lowest value on, rates are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """A line of a chart: its points (x, y), in the order in which they are joined."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A model in the picture of error against latency; `interval` is the error's, `told` the label in full."""

    label: str
    ms: float
    error: float
    interval: tuple[float, float]
    told: str = ""


class _Frame:
    """Axes with their grid; `x` and `y` turn values into places."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        *,
        log_x: bool = False,
        log_y: bool = False,
        x_ticks: Sequence[float] | None = None,
    ) -> None:
        self.x, across = _scale(*x, log_x, LEFT, WIDTH - LEFT - 16, x_ticks)
        self.y, up = _scale(*y, log_y, TOP + HEIGHT, -HEIGHT, None)
        bottom, right = TOP + HEIGHT, WIDTH - 16
        self.parts = []
        for tick in up:
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" y1="{self.y(tick):.1f}" x2="{right}" y2="{self.y(tick):.1f}"/>'
                f'<text class="small" text-anchor="end" x="{LEFT - 7}" y="{self.y(tick) + 4:.1f}">{tick:,.6g}</text>'
            )
        free = -1.0
        for tick in across:
            place, text = self.x(tick), f"{tick:,.6g}"
            self.parts.append(f'<line class="grid" x1="{place:.1f}" y1="{TOP}" x2="{place:.1f}" y2="{bottom}"/>')
            if place - 3.4 * len(text) > free:
                self.parts.append(
                    f'<text class="small" text-anchor="middle" x="{place:.1f}" y="{bottom + 17}">{text}</text>'
                )
                free = place + 3.4 * len(text) + 4
        self.parts.append(
            f'<text class="small" text-anchor="middle" x="{(LEFT + right) / 2}" y="{bottom + 36}">{labels[0]}</text>'
            f'<text class="small" text-anchor="middle" transform="translate(13 {TOP + HEIGHT / 2}) rotate(-90)">'
            f"{labels[1]}</text>"
        )

    def line(self, series: Series, number: int, marks: bool) -> None:
        kind, places = colour(number), [(self.x(x), self.y(y)) for x, y in series.points]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.parts.append(
            f'<polyline class="{kind} curve" points="{points}"><title>{escape(series.label)}</title></polyline>'
        )
        for (x, y), (across, up) in zip(places if marks else (), series.points, strict=False):
            title = f"{series.label}: {across:,.6g}, {up:,.4g}"
            self.parts.append(
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(title)}</title></circle>'
            )

    def drawn(self, title: str) -> str:
        return svg(WIDTH, TOP + HEIGHT + 44, title, self.parts)


def colour(number: int) -> str:
    """The class of a series in the page's style."""
    return f"c{number % COLOURS}" + (" dashed" if number // COLOURS % 2 else "")


def distribution(series: Sequence[Series]) -> str:
    """Which share of the calls, in percent, ended within how many milliseconds: points (ms, percent)."""
    ends = [x for item in series for x, _ in item.points]
    log = max(ends) > 6 * min(ends)
    frame = _Frame((min(ends), max(ends)), (0, 100), ("ms a call", "% of the calls"), log_x=log)
    for number, item in enumerate(series):
        frame.line(item, number, marks=False)
    return frame.drawn("Distribution of the latency")


def throughput(series: Sequence[Series]) -> str:
    """Pictures a second by batch size: points (batch, pictures/s)."""
    batches = sorted({x for item in series for x, _ in item.points})
    most = max(y for item in series for _, y in item.points)
    ends = (batches[0], batches[-1])
    frame = _Frame(ends, (0, most), ("batch size", "pictures/s"), log_x=True, x_ticks=batches)
    for number, item in enumerate(series):
        frame.line(item, number, marks=True)
    return frame.drawn("Throughput by batch size")


def load(series: Sequence[Series], bound: float | None, failed: Sequence[float] = ()) -> str:
    """Latency by rate: points (queries a second, ms). `bound` is a line across, in ms.

    The rates `failed` have no latency; a cross at the top stands for each.
    """
    across = [x for item in series for x, _ in item.points] + list(failed)
    up = [y for item in series for _, y in item.points] + ([bound] if bound else []) or [1.0]
    log_x, log_y = max(across) > WIDE * min(across) > 0, max(up) > 8 * min(up) > 0
    # With a cross above them, the lines keep away from the top.
    most = max(up) * ((2 if log_y else 1.15) if failed else 1)
    ends = (min(across) if log_x else 0, max(across))
    frame = _Frame(ends, (min(up) if log_y else 0, most), ("queries a second", "ms"), log_x=log_x, log_y=log_y)
    for number, item in enumerate(series):
        frame.line(item, number, marks=True)
    if bound:
        y = frame.y(bound)
        frame.parts.append(
            f'<line class="bound" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 16}" y2="{y:.1f}"/>'
            f'<text class="small halo" x="{LEFT + 5}" y="{y - 5:.1f}">bound {bound:g} ms</text>'
        )
    free = float("inf")
    for rate in sorted(failed, reverse=True):
        x, y, text = frame.x(rate), TOP + 7, ""
        if x + 5 < free:
            text = f'<text class="small halo" text-anchor="end" x="{x + 5:.1f}" y="{y + 16}">failed</text>'
            free = x - 35
        frame.parts.append(
            f'<g><title>{rate:,.6g} queries a second: failed</title><path class="cross" '
            f'd="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8"/>{text}</g>'
        )
    return frame.drawn("Latency by rate")


def pareto(dots: Sequence[Dot]) -> str:
    """Error by latency, with the error's 95% interval; the line joins those that no other beats in both."""
    lows, highs = zip(*(dot.interval for dot in dots), strict=True)
    times = [dot.ms for dot in dots]
    log = max(times) > 6 * min(times)
    room = 1.25 if log else 1.0
    frame = _Frame(
        (min(times) / room if log else 0, max(times) * room),
        (min(lows), max(highs)),
        ("ms a call", "top-1 error, %"),
        log_x=log,
    )
    best = frontier(dots)
    frame.parts.append(
        '<polyline class="frontier" points="'
        + " ".join(f"{frame.x(dot.ms):.1f},{frame.y(dot.error):.1f}" for dot in best)
        + '"/>'
    )
    places = [(frame.x(dot.ms), frame.y(dot.error)) for dot in dots]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for dot, (x, y) in zip(dots, places, strict=True):
        kind, (low, high) = ("c0" if dot in best else "c7"), dot.interval
        text, told = cut(dot.label, 34), escape(dot.told or dot.label)
        beside, above = _free(x, y, LETTER * len(text), taken)
        frame.parts.append(
            f"<g><title>{told}: {dot.ms:.4g} ms, {dot.error:.2f}% ({low:.2f} to {high:.2f})</title>"
            f'<line class="{kind} whisker" x1="{x:.1f}" y1="{frame.y(low):.1f}" x2="{x:.1f}" y2="{frame.y(high):.1f}"/>'
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            f'<text class="halo" x="{beside:.1f}" y="{above:.1f}">{escape(text)}</text></g>'
        )
    return frame.drawn("Error by latency")


def _free(x: float, y: float, width: float, taken: list[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Where a text beside a dot begins, off those that are `taken`, to which it is added."""
    # On the side of a falling line where it is not.
    sides = [start for start in (x + 9, x - 9 - width) if LEFT < start < WIDTH - width] or [LEFT + 2]
    found = sides[0], y - 7
    for step in range(TOP + HEIGHT):
        for start in sides:
            line = y - 7 - 4 * step if start > x else y + 19 + 4 * step
            inside = TOP + 12 < line < TOP + HEIGHT
            if inside and not any(
                start < right and left < start + width and line - 12 < bottom and top < line + 3
                for left, top, right, bottom in taken
            ):
                taken.append((start, line - 12, start + width, line + 3))
                return start, line
    return found


def frontier(dots: Sequence[Dot]) -> list[Dot]:
    """Those that no other beats in latency and error, fastest first."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.ms, dot.error)):
        if not best or dot.error < best[-1].error:
            best.append(dot)
    return best


def _scale(
    low: float, high: float, log: bool, start: float, length: float, ticks: Sequence[float] | None
) -> tuple[Callable[[float], float], list[float]]:
    """Where values lie, and round ones among them."""
    if not log:
        first, last, marks = round_axis(low, high)
        return lambda value: start + length * (value - first) / (last - first), list(ticks or marks)
    if ticks is None:
        marks = log_axis(low, high)
        ends = marks[0], marks[-1]
    else:
        marks, ends = list(ticks), (low, high if high > low else 2 * low)
    span = math.log(ends[1] / ends[0])
    return lambda value: start + length * math.log(value / ends[0]) / span, marks
