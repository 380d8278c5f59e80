"""Make pages that need nothing beside them, not even a network: the document, tables and boxes of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

START = '<!doctype html><html lang="en"><head><meta charset="utf-8">'
"""How every page begins."""
MARK = '<meta name="generator" content="resnet-infer">'
"""What tells pages of this package from all others, after `START`."""


def is_page(path: Path) -> bool:
    """Tell whether a file begins like a page of this package, which may be replaced."""
    with open(path, "rb") as file:
        return file.read(len(START) + len(MARK)) == (START + MARK).encode()


def document(title: str, body: Sequence[str], style: Path) -> str:
    """Return a whole page.

    `title` is text and `body` HTML. `style` is a file of CSS, which follows that of pages and of charts.
    """
    folder = Path(__file__).parent
    css = "".join(_text(path) for path in (folder / "html.css", folder / "charts.css", style))
    return (
        f"{START}{MARK}"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        '\'unsafe-inline\'"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(path: Path) -> str:
    """Return the content of a text file of the package, which may be in a zip file."""
    loader: Any = __spec__ and __spec__.loader
    content: bytes = loader.get_data(str(path))
    return content.decode()


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: int | None = None,
    own: Sequence[int] = (),
    skip_empty: bool = False,
) -> str:
    """Return a table that scrolls sideways; `header` and `rows` are HTML.

    Columns from `numbers` on are aligned to the right, and the rows `own` stand out. `skip_empty` leaves out columns
    that are empty in every row.
    """
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
    """Return lines of text that stand out from the page, or nothing without lines."""
    return f'<div class="box">{"<br>".join(map(escape, lines))}</div>' if lines else ""
