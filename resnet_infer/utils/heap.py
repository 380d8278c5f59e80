"""Memory that was freed, and that the C library keeps for what is asked for next."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, which gives it back by itself or never
        return lambda keep: None
    return trim


_trim = _trimmer()


def give_back() -> None:
    """Let the system have what was freed; it takes about a millisecond, and some more where much was."""
    _trim(0)
