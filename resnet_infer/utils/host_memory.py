"""Measure how much memory this process may use: that of the machine, or what its control groups leave of it."""

from __future__ import annotations

import os
import re
from errno import ENOMEM
from pathlib import Path

from resnet_infer.errors import OutOfMemoryError, first_line
from resnet_infer.utils.cgroups import memory_left, memory_limit

_SHORTAGE = re.compile(r"std::bad_alloc|can't allocate memory|cannot allocate memory", re.IGNORECASE)
"""Words with which compiled libraries report a lack of memory in errors that are not a `MemoryError`."""
UNKNOWN_FREE = 1 << 40
"""Bytes that count as free where the system does not tell (1 TiB)."""


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, whether this process may use it or not; None where it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def total_memory() -> int | None:
    """Return the bytes of memory that this process could use if nothing else ran; None where it is unknown."""
    return min((size for size in (physical_memory(), memory_limit()) if size is not None), default=None)


def free_memory() -> int:
    """Return the bytes of memory that this process may still allocate; 1 TiB where nothing is known."""
    found = [size for size in (_available(), memory_left()) if size is not None]
    return min(found, default=total_memory() or UNKNOWN_FREE)


def out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """Return an error that reports the lack of memory which caused `error`; None for an error with another cause.

    It recognises `MemoryError`, ENOMEM, and the messages of compiled libraries.
    """
    is_shortage = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == ENOMEM)
    if not is_shortage and not _SHORTAGE.search(str(error)):
        return None
    size = total_memory()
    has = f"; this process may have {size / 1e9:.1f} GB" if size else ""
    cause = f" ({first_line(error)})" if str(error) else ""
    return OutOfMemoryError(
        f"memory ran out{cause}{has}",
        hint="give it smaller or fewer pictures at a time (--batch-size), end other programs, or raise the limit of "
        "its container or control group",
    )


def _available() -> int | None:
    """Return Linux's estimate of the bytes that can be allocated without swapping; None where it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
