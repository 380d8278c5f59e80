"""How much memory there is for this process: what the machine has, or what its control groups leave of it."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_infer.cgroups import memory_left, memory_limit

UNTOLD = 1 << 40
"""Bytes that count as free where the system does not tell."""


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, whatever of it this process may use; None where it is not told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def total_memory() -> int | None:
    """Return the bytes of memory that this process could have if nothing else ran; None where it is not told."""
    return min((size for size in (physical_memory(), memory_limit()) if size is not None), default=None)


def free_memory() -> int:
    """Return the bytes of memory that this process may still take; what nobody tells counts as 1 TiB."""
    found = [size for size in (_available(), memory_left()) if size is not None]
    return min(found, default=total_memory() or UNTOLD)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
