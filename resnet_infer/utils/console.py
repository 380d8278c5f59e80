"""Pass notes to the logger `resnet_infer`, and write errors to stderr and results to stdout.

In a program that uses the library, notes are records of `logging`, which the program may show or not. `on_stderr` is
what the command line adds: it writes them to stderr.

Names of files, classes and archive members may come from strangers. All text is logged and written `printable`: such a
name cannot move the cursor, change colours, reverse the direction of text or imitate a line of this package (CWE-150).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

LOGGER = "resnet_infer"
"""Name of the logger of the package. Those of its modules are below it."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
"""Blocks of zero to seven eighths of a character."""


_shown = [False]
"""Whether notes are written to stderr and progress bars are drawn."""


def logger(name: str = LOGGER) -> logging.Logger:
    """Return a logger of the package. Records go nowhere unless the program, or `on_stderr`, adds a handler."""
    import logging  # 10 ms, which `--help` need not spend

    package = logging.getLogger(LOGGER)
    if not package.handlers:
        package.addHandler(logging.NullHandler())
    return logging.getLogger(name)


def note(message: str) -> None:
    """Log a message for people at the level INFO. It is never part of a result.

    Further lines of the message must be indented.
    """
    logger().info("%s", _paragraph(message), stacklevel=2)


def warn(message: str) -> None:
    """Log a message for people, as `note` does, at the level WARNING: the result may not be what was meant."""
    logger().warning("%s", _paragraph(message), stacklevel=2)


def is_shown() -> bool:
    """Return whether notes are shown: this is inside an `on_stderr` block, as in the command, which is not quiet."""
    return _shown[0] and logger().isEnabledFor(20)  # logging.INFO


@contextmanager
def on_stderr() -> Iterator[None]:
    """Write all notes to stderr during a `with` block, and allow progress bars: what the command line does.

    A block within another changes nothing: notes are written once, and as many as `--verbose` or `--quiet` says.
    """
    _enable()
    if _shown[0]:
        yield
        return
    import logging

    class Stderr(logging.Handler):
        """Write the message of each record, and the traceback if it has one."""

        def emit(self, record: logging.LogRecord) -> None:
            """Write one record."""
            write(record.getMessage())
            if record.exc_info:
                for line in logging.Formatter().formatException(record.exc_info).splitlines():
                    write(line)

    package, handler = logger(), Stderr()
    level, propagates = package.level, package.propagate
    package.addHandler(handler)
    package.propagate = False  # or a handler of the root logger, which a library may add, would write each note again
    package.setLevel(logging.INFO)
    _shown[0] = True
    try:
        yield
    finally:
        _shown[0] = False
        package.setLevel(level)
        package.propagate = propagates
        package.removeHandler(handler)


def _enable() -> None:
    """Enable the loggers of the package: `logging.config` disables those that there were before it, as in BentoML."""
    import logging

    for name, item in list(logging.root.manager.loggerDict.items()):
        if isinstance(item, logging.Logger) and f"{name}.".startswith(f"{LOGGER}."):
            item.disabled = False


def write(message: str) -> None:
    """Write a message to stderr at once, whatever `logging` is told.

    Further lines of the message must be indented. Nothing happens where stderr is closed or cannot be written.
    """
    if sys.stderr is None:  # `print` would write to stdout
        return
    # An embedding program may have replaced stderr by an object without these methods. ValueError: it is closed.
    text = _paragraph(message)
    with suppress(OSError, ValueError, AttributeError):
        try:
            print(text, file=sys.stderr, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def is_terminal(stream: object) -> bool:
    """Return whether a standard stream is a terminal. A closed stream, or an object without `isatty`, is not."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def flush(stream: object) -> None:
    """Write out the buffer of a text stream. Do nothing for None and for an object without a buffer."""
    if write_out := getattr(stream, "flush", None):
        write_out()


def encoding_of(stream: object) -> str:
    """Return the encoding of a text stream; ASCII where it names none."""
    return getattr(stream, "encoding", None) or "ascii"


def fail(message: str, hint: str | None = None) -> None:
    """Write an error as one line to stderr, and its hint on the next line."""
    write(f"error: {message}")
    if hint:
        write(f"  hint: {hint}")


def printable(text: str) -> str:
    """Return the text with escapes in place of characters that move the cursor, change colours or begin a line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(text: str) -> None:
    """Print a result in words, of one line or several."""
    print("\n".join(map(printable, text.split("\n"))))


def _paragraph(text: str) -> str:
    """Return the text `printable`, with its line breaks before indented lines kept."""
    return "\n".join(map(printable, re.split(r"\n(?=  )", text)))


def bar(fraction: float, width: int = 24, *, encoding: str | None = None) -> str:
    """Return a bar of block characters for a fraction from 0 to 1, to an eighth of a character.

    It is `width` characters long at 1, and of "#" where `encoding` (default: stdout's) has no block characters.

    >>> bar(0.5, 8, encoding="utf-8")
    '████'
    """
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    try:
        _EIGHTHS.encode(encoding or encoding_of(sys.stdout))
    except (UnicodeEncodeError, LookupError):
        return "#" * (eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return aligned lines of names and values. Further lines of a value are indented below its first."""
    width = max(len(name) for name, _ in rows)
    values = ("\n".join(map(printable, value.split("\n"))) for _, value in rows)
    return "\n".join(
        f"{name:<{width}}  {value}".replace("\n", "\n" + " " * (width + 2))
        for (name, _), value in zip(rows, values, strict=True)
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns; columns of numbers are aligned to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, possibly with a sign, thousands separators or a percent sign."""
    return text.strip().rstrip("%").replace(".", "", 1).replace(",", "").lstrip("-").isdigit()


def size_text(count: int) -> str:
    """Return a number of bytes in MB, or in kB for a small file.

    >>> size_text(1_120_000), size_text(4_100)
    ('1.1 MB', '4.1 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 or not count else f"{count / 1e3:.1f} kB"


def occupy_descriptors() -> None:
    """Open the null device in place of each closed standard stream.

    Otherwise the next file that is opened would get the stream's descriptor, and libraries would print into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
