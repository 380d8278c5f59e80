"""Return freed memory from the C library's heap to the operating system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], object]:
    """Return glibc's `malloc_trim`, or a function that does nothing where there is another C library."""
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, which returns memory by itself or never
        return lambda keep: None
    return trim


_trim = _trimmer()


def give_back() -> None:
    """Return freed memory to the system. It takes about a millisecond, and more where much was freed."""
    _trim(0)
