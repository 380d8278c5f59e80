"""Round batch sizes up, so that a GPU sees few shapes: each new shape costs a plan, buffers or a graph."""

from __future__ import annotations

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes up to the largest batch that the service forms by default."""


def padded(count: int, largest: int | None = None) -> int:
    """Return the batch size in which `count` images are computed, at most `largest`, which holds them.

    It is the next of `SIZES`, and above them the next multiple of the last.

    >>> [padded(count) for count in (1, 3, 8, 9, 33)], padded(9, largest=12)
    ([1, 4, 8, 16, 64], 12)
    """
    last = SIZES[-1]
    size = next((size for size in SIZES if size >= count), -(-count // last) * last)
    return size if largest is None else min(size, largest)


def warm_up_sizes(largest: int) -> tuple[int, ...]:
    """Return all batch sizes that batches of up to `largest` images are computed in.

    >>> warm_up_sizes(12)
    (1, 2, 4, 8, 12)
    """
    return tuple(sorted({padded(count, largest) for count in range(1, largest + 1)}))
