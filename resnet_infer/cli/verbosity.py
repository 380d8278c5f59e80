"""Show more or fewer messages on stderr: `--verbose` and `--quiet`.

It is imported only where one of them is given.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

from resnet_infer.utils.console import LOGGER, write

LEVELS = {"verbose": (logging.DEBUG, logging.WARNING), "quiet": (logging.ERROR, logging.ERROR)}
"""Option -> least level of the messages that are shown, of this package and of other libraries."""


class _Lines(logging.Handler):
    """Write each record to stderr: the message alone, or behind the time, the level and the logger."""

    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self._plain = plain

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and the traceback if it has one."""
        hour = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = "" if self._plain else f"{hour}.{int(record.msecs):03d} {record.levelname} {record.name}: "
        write(head + record.getMessage())
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                write(f"  {line}")


def set_verbosity(stack: ExitStack, option: str) -> None:
    """Apply `verbose` or `quiet` until `stack` closes."""
    least, of_others = LEVELS[option]
    lines = _Lines(plain=option == "quiet")
    package, root = logging.getLogger(LOGGER), logging.getLogger()
    before = package.level, package.handlers[:], package.propagate, root.level, root.handlers[:]
    package.handlers = root.handlers = [lines]
    package.propagate = False  # or the root logger would write each record again
    package.setLevel(least)
    root.setLevel(of_others)

    def undo() -> None:
        """Put back what was set before."""
        level, package.handlers, package.propagate, root_level, root.handlers = before
        package.setLevel(level)
        root.setLevel(root_level)

    stack.callback(undo)
