"""A histogram of a tensor's values that needs no range beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 4096
"""Bins on each side of zero. At least half of those of the wider side are in use."""
_SIDE_BITS = 12
_SMALLEST = -100
"""Exponent of the narrowest range, so that the width of a bin stays a normal float32."""
_CHUNK = 1 << 18
"""Values at a time, so that what is computed of them stays in the processor's cache."""

Array = NDArray[Any]


class Histogram:
    """Counts of float32 values in 2 * `SIDE` bins of one `width`, zeros apart, in memory that does not grow.

    The width is a power of two: the least with which the bins hold all values. As it doubles, pairs of bins become one.
    So the result depends on the values alone, not on their order or on how they were divided into calls.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * SIDE, np.int64)
        self.zeros = 0
        self.low = self.high = 0.0
        self._exponent: int | None = None

    @property
    def width(self) -> float:
        """Of a bin. Bin SIDE + i holds what is from i to below i + 1 widths, bin SIDE - 1 - i the same of negatives."""
        return 2.0 ** ((0 if self._exponent is None else self._exponent) - _SIDE_BITS)

    def add(self, values: Array) -> bool:
        """Count `values`, float32 of any shape. False, and nothing is counted, if one is not finite."""
        if not values.size:
            return True
        values = values.reshape(-1)
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest > 0:
            self._grow(max(int(np.frexp(np.float64(largest))[1]), _SMALLEST))
        factor = np.float32(1 / self.width)
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            zeros = len(part) - np.count_nonzero(part)
            self.zeros += int(zeros)
            places = (np.abs(part) * factor).astype(np.int64)
            bins = np.where(part < 0, ~places, places) + SIDE
            self.counts += np.bincount(bins, minlength=2 * SIDE)
            self.counts[SIDE] -= zeros
        return True

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[SIDE // 2 : SIDE // 2 + SIDE] = merged
            self._exponent += 1

    @property
    def total(self) -> int:
        return int(self.counts.sum()) + self.zeros

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of the absolute values that are not zero, (SIDE,)."""
        merged: NDArray[np.int64] = self.counts[SIDE:] + self.counts[:SIDE][::-1]
        return merged
