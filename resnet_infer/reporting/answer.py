"""Draw the answer for an image as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MOST_ROWS = 20
"""Most classes in the table."""
_BAR = "display:inline-block;height:0.7em;background:#4c78a8;width:{:.1f}px"
_BAR_PIXELS = 120
"""Width of the bar of a probability of 1."""


def answer_html(source: str, rows: Sequence[tuple[str, float]], error: str | None, note: str | None) -> str:
    """Return a table of labels and probabilities with bars, or the error, below the name of the image.

    >>> answer_html("cat.jpg", [], "cat.jpg: No such file or directory", None)
    '<div><b>cat.jpg</b><p>cat.jpg: No such file or directory</p></div>'
    """
    parts = [f"<div><b>{escape(source)}</b>"]
    if error:
        parts.append(f"<p>{escape(error)}</p>")
    if rows:
        parts.append("<table><tr><th>label</th><th>probability</th><th></th></tr>")
        for label, probability in rows[:MOST_ROWS]:
            bar = f'<span style="{_BAR.format(_BAR_PIXELS * probability)}"></span>'
            parts.append(
                f'<tr><td style="text-align:left">{escape(label)}</td><td>{100 * probability:.1f}%</td>'
                f'<td style="text-align:left">{bar}</td></tr>'
            )
        parts.append("</table>")
        if len(rows) > MOST_ROWS:
            parts.append(f"<p>and {len(rows) - MOST_ROWS} more</p>")
    if note:
        parts.append(f"<p>{escape(note)}</p>")
    return "".join((*parts, "</div>"))
