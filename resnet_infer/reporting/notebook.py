"""Draw results as small HTML tables, which notebooks show in place of a `repr`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MOST_ROWS = 20
"""Most rows of a table."""


def table_html(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, more: str = "") -> str:
    """Return a table below a title. All arguments are text; without a `header` the first column names the others.

    >>> table_html("a < b", (), [("classes", "10")])
    '<div><b>a &lt; b</b><table><tr><th>classes</th><td>10</td></tr></table></div>'
    """
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"] if header else []
    for first, *others in rows[:MOST_ROWS]:
        tag = "td" if header else "th"
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f"<tr><{tag}>{escape(first)}</{tag}>{cells}</tr>")
    rest = [f"{len(rows) - MOST_ROWS} more rows"] if len(rows) > MOST_ROWS else []
    text = "".join(f"<p>{escape(line)}</p>" for line in (*rest, more) if line)
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table>{text}</div>"
