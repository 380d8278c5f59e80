"""Compare versions of TensorRT. This module imports nothing, so that `resnet-infer env` can use it."""

from __future__ import annotations

_NEWER = {(8, 10), (10, 11)}
"""Pairs (older, newer) of major versions of TensorRT: the newer runs version-compatible engines of the older."""


def version_numbers(version: str) -> tuple[int, ...]:
    """Split a version of TensorRT into numbers.

    >>> version_numbers("10.16.1.11")
    (10, 16, 1, 11)
    """
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def compatible_majors(tensorrt: str) -> tuple[int, ...]:
    """Return the major versions of TensorRT whose version-compatible engines this version runs, if it is no older."""
    here = version_numbers(tensorrt)[:1]
    return tuple(sorted({*here, *(old for old, new in _NEWER if (new,) == here)}))
