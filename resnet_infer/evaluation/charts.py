"""Drawings for the report, as SVG that stands inside the page and takes its colours from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from resnet_infer.evaluation.result import Bin, Rate
from resnet_infer.reporting.html import cut, round_axis, svg

MOST_CLASSES = 40
"""A confusion matrix of more classes is drawn by groups."""
GROUPS = 25
LABEL = 44
"""Letters of a line's label, of which a long name gives way."""
NUMBERED = 12
"""Up to so many classes a cell shows its number."""


@dataclass(frozen=True)
class Interval:
    """A line of the chart of errors: of whom, which, its interval, and published figures beside it.

    `kind` is its class in the page's style.
    """

    name: str
    which: str
    kind: str
    rate: Rate
    published: float | None = None


def intervals(lines: Sequence[Interval]) -> str:
    """Errors with their 95% intervals, one below the other, and the paper's as a hollow square."""
    left, width, step, top = 330, 520, 28, 12
    ends = [value for line in lines for value in (*line.rate.interval, line.published) if value is not None]
    low, high, ticks = round_axis(min(ends), max(ends), least=0.1)
    bottom = top + step * len(lines)

    def x(value: float) -> float:
        return left + width * (value - low) / (high - low)

    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" y1="{top}" x2="{x(tick):.1f}" y2="{bottom}"/>'
        f'<text class="small" text-anchor="middle" x="{x(tick):.1f}" y="{bottom + 16}">{tick:g}%</text>'
        for tick in ticks
    ]
    for number, line in enumerate(lines):
        y = top + step * (number + 0.5)
        first, last = line.rate.interval
        label = f"{cut(line.name, LABEL - len(line.which))}, {line.which}"
        parts.append(
            f"<g><title>{escape(line.name)}, {line.which}: {line.rate} ({first:.2f} to {last:.2f})</title>"
            f'<text text-anchor="end" x="{left - 14}" y="{y + 4:.1f}">{escape(label)}</text>'
            f'<line class="{line.kind} whisker" x1="{x(first):.1f}" y1="{y}" x2="{x(last):.1f}" y2="{y}"/>'
            f'<circle class="{line.kind}" cx="{x(line.rate.error):.1f}" cy="{y}" r="5"/></g>'
        )
        if line.published is not None:
            parts.append(
                f'<rect class="paper" x="{x(line.published) - 4.5:.1f}" y="{y - 4.5}" width="9" height="9">'
                f"<title>published: {line.published:g}%</title></rect>"
            )
    return svg(left + width + 40, bottom + 24, "Errors with their 95% intervals", parts)


def reliability(bins: Sequence[Bin]) -> str:
    """How often answers are right, by how confident they are; on the diagonal they are as right as they say."""
    left, top, side = 44, 12, 260

    def x(value: float) -> float:
        return left + side * value

    def y(value: float) -> float:
        return top + side * (1 - value)

    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{left}" y1="{y(tick)}" x2="{left + side}" y2="{y(tick)}"/>')
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{y(tick) + 4}">{100 * tick:g}</text>')
        parts.append(
            f'<text class="small" text-anchor="middle" x="{x(tick)}" y="{top + side + 16}">{100 * tick:g}</text>'
        )
    parts.append(f'<line class="diagonal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    most = max(part.pictures for part in bins)
    for part in bins:
        height = 50 * part.pictures / most
        parts.append(
            f'<rect class="count" x="{x(part.confidence) - 5:.1f}" y="{top + side - height:.1f}" width="10" '
            f'height="{height:.1f}"/>'
        )
    points = " ".join(f"{x(part.confidence):.1f},{y(part.accuracy):.1f}" for part in bins)
    parts.append(f'<polyline class="top1 curve" points="{points}"/>')
    for part in bins:
        parts.append(
            f'<circle class="top1" cx="{x(part.confidence):.1f}" cy="{y(part.accuracy):.1f}" r="4.5"><title>'
            f"{part.pictures} pictures: confidence {100 * part.confidence:.1f}%, right {100 * part.accuracy:.1f}%"
            "</title></circle>"
        )
    middle = left + side / 2
    parts.append(f'<text class="small" text-anchor="middle" x="{middle}" y="{top + side + 34}">confidence, %</text>')
    parts.append(
        f'<text class="small" text-anchor="middle" transform="translate(12 {top + side / 2}) rotate(-90)">'
        "right, %</text>"
    )
    return svg(left + side + 12, top + side + 42, "Right answers by confidence", parts)


def confusion(labels: NDArray[np.int64], top1: NDArray[np.int64], names: Sequence[str]) -> str:
    """Rows are right classes and columns are answers. Colour is the share of the row: blue right, orange wrong.

    More than `MOST_CLASSES` are drawn in groups of neighbours; ImageNet's are in the order of their WordNet ids, in
    which neighbours are of a kind.
    """
    size = 1 if len(names) <= MOST_CLASSES else -(-len(names) // GROUPS)
    count = -(-len(names) // size)
    heads = [
        names[first] if size == 1 else f"{names[first]} … {names[min(first + size, len(names)) - 1]}"
        for first in range(0, len(names), size)
    ]
    cells = np.zeros((count, count), np.int64)
    given = top1 >= 0
    np.add.at(cells, (labels[given] // size, top1[given] // size), 1)
    rows = np.bincount(labels // size, minlength=count)
    side = 34 if count <= NUMBERED else 18 if count > 30 else 22
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
    for row, column in np.ndindex(count, count):
        if not rows[row]:
            continue
        share, hits = float(cells[row, column] / rows[row]), int(cells[row, column])
        kind = "right" if row == column else "wrong"
        title = f"<title>{escape(heads[row])} answered {escape(heads[column])}: {hits} of {rows[row]}</title>"
        place_x, place_y = left + side * column, top + side * row
        parts.append(
            f'<rect class="{kind}" x="{place_x}" y="{place_y}" width="{side - 1}" height="{side - 1}" '
            f'fill-opacity="{0 if not hits else 0.08 + 0.92 * share**0.5:.3f}">{title}</rect>'
        )
        if hits and count <= NUMBERED:
            shade = " dark" if share > 0.35 else ""
            parts.append(
                f'<text class="cell{shade}" text-anchor="middle" x="{place_x + side / 2 - 0.5}" '
                f'y="{place_y + side / 2 + 3.5}">{hits}</text>'
            )
    parts.append(
        f'<rect class="frame" x="{left - 0.5}" y="{top - 0.5}" width="{side * count}" height="{side * count}"/>'
    )
    return svg(left + side * count + int(4.6 * letters) + 10, top + side * count + 8, "Confusion matrix", parts)
