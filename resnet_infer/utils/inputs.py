"""Files that a user names, read only where that comes to an end.

A named pipe without a writer blocks whoever opens it, a device may never end, and a file may be larger than memory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from io import FileIO
from pathlib import Path

MAX_BYTES = 1 << 31
"""Most bytes of a file that is read whole."""
_HANDED_OVER = re.compile(r"/dev/(fd/\d+|stdin)|/proc/(self|thread-self|\d+)/(task/\d+/)?fd/\d+")
"""Where a shell puts what it hands over, as in `classify <(...)`: a pipe that has a writer."""


def open_input(path: str | Path) -> FileIO:
    """Open a regular file, or what a shell has handed over, to be read without a buffer.

    Raises `OSError`, whose `strerror` is "not a regular file" for a named pipe, a socket and a device: these are not
    opened, for that alone may block or do something.
    """
    if is_handed_over(path):
        return FileIO(str(path))
    _require(os.stat(path).st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    # It may have been replaced since it was looked at.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _require(os.fstat(descriptor).st_mode, path)
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def require_regular(path: str | Path) -> None:
    """Raise `OSError` as `open_input` does, for a path that another library opens."""
    mode = os.stat(path).st_mode
    if not is_handed_over(path):
        _require(mode, path)


def is_handed_over(path: str | Path) -> bool:
    """Whether a shell hands over files, pipes or whatever it has at this path."""
    return _HANDED_OVER.fullmatch(str(path)) is not None


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """All of a file. Raises `OSError` as `open_input` does, for more than `limit` bytes, and where memory is too small.

    So one file that cannot be read is an error like any other, and not the end of the program.
    """
    with open_input(path) as file:
        return read_open(file, path, limit)


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """All of a text file, with line ends as \\n. Raises `OSError` as `read_bytes`, and `UnicodeDecodeError`."""
    return read_bytes(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path) -> tuple[str, ...]:
    """Return the lines of a text file in UTF-8 that are not empty, without the spaces around them.

    A byte-order mark, as Windows writes it, is no part of the first one. Raises as `read_text`.
    """
    return tuple(line.strip() for line in read_text(path, "utf-8-sig").splitlines() if line.strip())


def read_open(file: FileIO, path: str | Path, limit: int) -> bytes:
    """What is left of an open file. Raises `OSError` as `read_bytes` does."""
    about = os.fstat(file.fileno())
    size = about.st_size if stat.S_ISREG(about.st_mode) else 0
    if size > limit:
        raise _too_large(size, limit, path)
    parts: list[bytes] = []
    found = 0
    try:
        while part := file.read(size + 1 if size and not parts else 1 << 20):
            parts.append(part)
            found += len(part)
            if found > limit:
                raise _too_large(None, limit, path)
            if found == size:
                break  # one byte more was asked for
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except MemoryError:
        pass
    parts.clear()
    raise OSError(errno.ENOMEM, f"there is not enough memory for its {max(size, found):,} bytes", str(path))


def _require(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _too_large(size: int | None, limit: int, path: str | Path) -> OSError:
    said = f"it has more than {limit:,} bytes" if size is None else f"its {size:,} bytes are more than {limit:,}"
    return OSError(errno.EFBIG, said, str(path))
