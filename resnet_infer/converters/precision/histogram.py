"""Count a tensor's values in a histogram whose range grows with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 4096
"""Bins on each side of zero. The largest magnitude lies in the outer half of them."""
_SIDE_BITS = 12
"""Binary logarithm of `SIDE`."""
_SMALLEST = -100
"""Least exponent of the range, 2**exponent, with which the width of a bin is a normal float32."""
_CHUNK = 1 << 18
"""Values per step, few enough for the processor's cache."""

Array = NDArray[Any]


class Histogram:
    """Count float32 values in 2 * `SIDE` bins of equal width, and zeros apart.

    `counts` holds the counts of the bins, int64, (2 * SIDE,), and `zeros` the count of zeros. `low` and `high` are the
    lowest and highest value, and include zero.

    The width of a bin is the smallest power of two with which the bins hold all values. Doubling it merges pairs of
    bins. The result therefore depends on the values alone, not on their order or their division into calls.
    """

    def __init__(self) -> None:
        """Make an empty histogram."""
        self.counts: NDArray[np.int64] = np.zeros(2 * SIDE, np.int64)
        self.zeros = 0
        self.low = self.high = 0.0
        self._exponent: int | None = None

    @property
    def width(self) -> float:
        """Width of a bin.

        Bin SIDE + i counts positive values from i to below i + 1 widths, and bin SIDE - 1 - i negative values of the
        same magnitudes.
        """
        return 2.0 ** ((0 if self._exponent is None else self._exponent) - _SIDE_BITS)

    def add(self, values: Array) -> bool:
        """Count `values`, float32 of any shape. Returns False, and counts nothing, if one is not finite."""
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
        """Widen the range to magnitudes below 2**exponent."""
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[SIDE // 2 : SIDE // 2 + SIDE] = merged
            self._exponent += 1

    @property
    def total(self) -> int:
        """Number of all values, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def magnitudes(self) -> NDArray[np.int64]:
        """Return the counts of the magnitudes without zeros, int64, (SIDE,)."""
        merged: NDArray[np.int64] = self.counts[SIDE:] + self.counts[:SIDE][::-1]
        return merged
