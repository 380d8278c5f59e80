"""Pages that need nothing beside them, not even a network: the frame, tables, and drawings as SVG.

Drawings stand inside the page and take their colours from its style, so that they are light or dark as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path


def document(title: str, body: Sequence[str], style: Path) -> str:
    """A whole page. `title` is text, `body` HTML; `style` is a file of CSS that goes on where `html.css` ends."""
    css = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).with_name("html.css"), style))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        '\'unsafe-inline\'"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: int | None = None,
    own: Sequence[int] = (),
    skip_empty: bool = False,
) -> str:
    """`rows` are HTML. Columns from `numbers` on are set to the right; the rows `own` stand out."""
    kept = [column for column in range(len(header)) if not skip_empty or not rows or any(row[column] for row in rows)]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if numbers is not None and column >= numbers else ''}>{cells[column]}</{tag}>"
            for column in kept
        )

    body = "".join(
        f"<tr{' class=own' if number in own else ''}>{line('td', row)}</tr>" for number, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><tr>{line("th", header)}</tr>{body}</table></div>'


def box(lines: Sequence[str]) -> str:
    """Lines of text that stand out; nothing for none."""
    return f'<div class="box">{"<br>".join(map(escape, lines))}</div>' if lines else ""


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A drawing of SVG elements."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def cut(text: str, most: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def round_axis(low: float, high: float, *, least: float = 0.0, ticks: int = 7) -> tuple[float, float, list[float]]:
    """A range around `low` to `high`, and at most about `ticks` round numbers in it, `least` or more apart."""
    span = max(high - low, abs(high) * 1e-6, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / ticks))
    step = max(next(unit * power for unit in (1, 2, 2.5, 5, 10, 20) if span / (unit * power) <= ticks), least)
    start, stop = math.floor(low / step), math.ceil(high / step)
    stop = max(stop, start + 1)
    return start * step, stop * step, [round(step * number, 12) for number in range(start, stop + 1)]


def log_axis(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten between two positive ones, those around them included."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    marks = [unit * 10.0**power for power in range(first, last + 1) for unit in (1, 2, 5)]
    start = max(number for number, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    stop = min(number for number, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
    return [round(mark, 12) for mark in marks[start : max(stop, start + 1) + 1]]
