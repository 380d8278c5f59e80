"""Read files that a user names, without the risk of never returning.

Opening a named pipe without a writer blocks, reading a device may never end, and a file may be larger than memory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from io import FileIO
from pathlib import Path

MAX_BYTES = 1 << 31
"""Most bytes of a file that is read as a whole (2 GiB)."""
_HANDED_OVER = re.compile(r"/dev/(fd/\d+|stdin)|/proc/(self|thread-self|\d+)/(task/\d+/)?fd/\d+")
"""Paths of open descriptors, as a shell passes them in `classify <(...)`: pipes that have a writer."""


def open_input(path: str | Path) -> FileIO:
    """Open a regular file, or a descriptor passed by a shell, for unbuffered reading.

    Raises `OSError` if it cannot be opened. For a named pipe, a socket or a device, `strerror` is "not a regular file";
    it is not opened, because that alone may block or have an effect.
    """
    if is_handed_over(path):
        return FileIO(str(path))
    _require(os.stat(path).st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    # The file may have been replaced since `os.stat`.
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
    """Return whether the path is that of an open descriptor, such as /dev/stdin or a shell's process substitution."""
    return _HANDED_OVER.fullmatch(str(path)) is not None


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises `OSError` as `open_input` does, for a file of more than `limit` bytes (EFBIG), and where memory does not
    suffice (ENOMEM), so that one such file is an error like any other.
    """
    with open_input(path) as file:
        return read_open(file, path, limit)


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Return the content of a text file, with line feeds as line ends.

    Raises `OSError` as `read_bytes` does, and `UnicodeDecodeError`.
    """
    return read_bytes(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path) -> tuple[str, ...]:
    """Return the lines of a text file in UTF-8 that are not empty, without the spaces around them.

    A byte-order mark, as Windows writes it, is no part of the first one. Raises as `read_text`.
    """
    return tuple(line.strip() for line in read_text(path, "utf-8-sig").splitlines() if line.strip())


def read_open(file: FileIO, path: str | Path, limit: int) -> bytes:
    """Return the rest of an open file, of at most `limit` bytes. Raises `OSError` as `read_bytes` does."""
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
                break  # the read requested one byte more, so this is the end
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except MemoryError:
        pass
    parts.clear()
    raise OSError(errno.ENOMEM, f"there is not enough memory for its {max(size, found):,} bytes", str(path))


def unresolved(path: str) -> str | None:
    """Return the hint for a path that does not exist because something in it was not resolved."""
    if path.startswith("~"):
        return f"a shell resolves ~ where it is not quoted, and nothing here does: {os.path.expanduser(path)}"
    if "*" in path:
        folder, name = os.path.split(path)
        return f"give the files that the pattern stands for: sorted(Path({folder or '.'!r}).glob({name!r}))"
    return None


def _require(mode: int, path: str | Path) -> None:
    """Raise `OSError` unless `mode` is that of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _too_large(size: int | None, limit: int, path: str | Path) -> OSError:
    """Return the error for a file of more than `limit` bytes; `size` is None where it is unknown."""
    said = f"it has more than {limit:,} bytes" if size is None else f"its {size:,} bytes are more than {limit:,}"
    return OSError(errno.EFBIG, said, str(path))
