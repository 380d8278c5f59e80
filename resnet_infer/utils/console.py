"""Notes and errors on stderr, tables on stdout.

Names of files, classes and members of archives come from others. Whatever is shown here is shown `printable`, so that
they cannot move the cursor, change colours, turn the direction of text or begin a line that seems to be ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress

_EIGHTHS = " ▏▎▍▌▋▊▉"


def note(message: str) -> None:
    """A line for the person at the terminal; never part of a result. Further lines of it are indented.

    Nothing where stderr is closed or takes nothing more: that is no reason to stop.
    """
    if sys.stderr is None:  # `print` would take stdout
        return
    # What a program around this one has put there may lack any method; `ValueError`: it was closed.
    text = _paragraph(message)
    with suppress(OSError, ValueError, AttributeError):
        try:
            print(text, file=sys.stderr, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def is_terminal(stream: object) -> bool:
    """Whether a standard stream is a terminal; not where it is closed, or an object that cannot say."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def flush(stream: object) -> None:
    """Write out what a text stream holds back; nothing for None, or an object that holds nothing back."""
    if write_out := getattr(stream, "flush", None):
        write_out()


def encoding_of(stream: object) -> str:
    """The encoding of a text stream; ASCII where it does not name one."""
    return getattr(stream, "encoding", None) or "ascii"


def fail(message: str, hint: str | None = None) -> None:
    """An error as one line, and what to do about it on the next."""
    note(f"error: {message}")
    if hint:
        note(f"  hint: {hint}")


def printable(text: str) -> str:
    """The text with escapes in the place of what would move the cursor, change colours or begin a line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(text: str) -> None:
    """Print a result in words, of one line or several."""
    print("\n".join(map(printable, text.split("\n"))))


def _paragraph(text: str) -> str:
    """The same of text that may have indented lines below the first; other line breaks are not ours."""
    return "\n".join(map(printable, re.split(r"\n(?=  )", text)))


def bar(fraction: float, width: int = 24, *, encoding: str | None = None) -> str:
    """A bar of block characters, to an eighth of a character; ASCII where `encoding` has none (default: stdout's)."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    try:
        _EIGHTHS.encode(encoding or encoding_of(sys.stdout))
    except (UnicodeEncodeError, LookupError):
        return "#" * (eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, aligned; further lines of a value are indented below it."""
    width = max(len(name) for name, _ in rows)
    values = ("\n".join(map(printable, value.split("\n"))) for _, value in rows)
    return "\n".join(
        f"{name:<{width}}  {value}".replace("\n", "\n" + " " * (width + 2))
        for (name, _), value in zip(rows, values, strict=True)
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, aligned; numbers to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.strip().rstrip("%").replace(".", "", 1).replace(",", "").lstrip("-").isdigit()
