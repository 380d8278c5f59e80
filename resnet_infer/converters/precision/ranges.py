"""Choose the range that a tensor's integers cover, from the histogram of its values."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.precision.histogram import SIDE, Histogram

Grid = Literal["unsigned", "symmetric"]
"""Kind of quantisation: "unsigned" is uint8 with a zero point, "symmetric" is int8 with zero point 0."""
Method = Literal["mse", "minmax", "entropy", "percentile"]
"""Method that chooses the range; see `find_range`."""
Range = tuple[float, float]
"""Lowest and highest value that the integers cover. Zero is between them."""

PERCENTILE = 99.999
"""Percentage of the values that the method "percentile" does not clip."""
SHRINKS = np.geomspace(1.0, 0.02, 160)
"""Fractions of the full range that "mse" tries; "entropy" tries every second of them."""
TINY = 1e-20
"""Smallest scale. Smaller values count as zero, and the product of two scales remains a normal float32."""

Array = NDArray[Any]


def find_range(histogram: Histogram, grid: Grid, method: Method) -> Range:
    """Choose the lowest and highest value that the integers cover. Values outside are clipped; zero is inside.

    - "minmax" clips nothing.
    - "percentile" keeps `PERCENTILE` percent of the values.
    - "mse" minimises the mean squared error of the quantised values.
    - "entropy" minimises the Kullback-Leibler divergence between the distributions of the values before and after
      quantisation (Migacz, "8-bit inference with TensorRT", GTC 2017).

    On the symmetric grid the range is (-a, a).
    """
    low, high = histogram.low, histogram.high
    if low == high:
        return 0.0, 0.0
    if method == "percentile":
        low, high = _percentile(histogram)
    elif method == "entropy":
        limit = _entropy(histogram, 256 if grid == "unsigned" and low == 0 else 128)
        low, high = max(low, -limit), min(high, limit)
    elif method == "mse":
        return _least_squares(histogram, grid)
    return (low, high) if grid == "unsigned" else _symmetric(low, high)


def grid_parameters(limits: Range, grid: Grid) -> tuple[np.float32, int]:
    """Compute the scale, float32, and the zero point of a range: value = scale * (integer - zero point).

    >>> grid_parameters((0.0, 255.0), "unsigned")
    (np.float32(1.0), 0)
    """
    low, high = limits
    step = max(-low, high) / 127 if grid == "symmetric" else (high - low) / 255
    scale = np.float32(step if step > TINY else 1.0)
    return scale, 0 if grid == "symmetric" else round(-low / float(scale))


def _symmetric(low: float, high: float) -> Range:
    """Widen a range to one that is symmetric about zero."""
    limit = max(-low, high)
    return -limit, limit


def _percentile(histogram: Histogram) -> Range:
    """Clip the share of the values beyond `PERCENTILE`: half of it at each end, or all at the only end."""
    counts = histogram.counts.copy()
    counts[SIDE] += histogram.zeros
    left_out = histogram.total * (1 - PERCENTILE / 100)
    if histogram.low < 0 < histogram.high:
        left_out /= 2
    upward, downward = np.cumsum(counts), np.cumsum(counts[::-1])
    first = int(np.searchsorted(upward, left_out, side="right"))
    last = 2 * SIDE - int(np.searchsorted(downward, left_out, side="right"))
    low = max(histogram.low, (first - SIDE) * histogram.width)
    high = min(histogram.high, (last - SIDE) * histogram.width)
    return min(low, 0.0), max(high, 0.0)


class _Moments:
    """Compute the count, sum and sum of squares of all values below any point.

    The values in a bin are assumed to be uniformly distributed.
    """

    def __init__(self, histogram: Histogram) -> None:
        """Accumulate the three moments over the bins of a histogram."""
        self._width = histogram.width
        self._edges = np.arange(-SIDE, SIDE + 1) * self._width
        self._density = histogram.counts / self._width
        sums = np.cumsum(self._density * np.diff(_integrals(self._edges), axis=1), axis=1)
        self._sums = np.concatenate([np.zeros((3, 1)), sums], axis=1)

    def below(self, points: Array) -> Array:
        """Return count, sum and sum of squares of the values below each of `points`, (3, *points.shape).

        Values equal to zero do not count: their quantisation error is zero.
        """
        points = np.clip(points, self._edges[0], self._edges[-1])
        bins = np.minimum((points / self._width).astype(np.int64) + SIDE, 2 * SIDE - 1)
        bins -= points < self._edges[bins]
        rest = self._density[bins] * (_integrals(points) - _integrals(self._edges[bins]))
        result: Array = self._sums[:, bins] + rest
        return result

    def errors(self, lows: Array, highs: Array, grid: Grid) -> Array:
        """Return the summed squared quantisation error of all values, (N,), for N ranges from `lows` to `highs`."""
        if grid == "symmetric":
            first, scales = np.full(len(lows), -128.0), highs / 127
        else:
            scales = (highs - lows) / 255
            first = np.rint(lows / scales)
        levels = (first[:, None] + np.arange(256)) * scales[:, None]
        ends = np.full((len(lows), 1), np.inf)
        edges = np.concatenate([-ends, (levels[:, 1:] + levels[:, :-1]) / 2, ends], axis=1)
        count, total, squares = np.diff(self.below(edges), axis=2)
        result: Array = (squares - 2 * levels * total + levels**2 * count).sum(axis=1)
        return result


def _integrals(points: Array) -> Array:
    """Return the integrals of 1, x and x**2 from zero to each of `points`, (3, *points.shape)."""
    return np.stack([points, points**2 / 2, points**3 / 3])


def _least_squares(histogram: Histogram, grid: Grid) -> Range:
    """Find the range of least squared error: shrink both ends together, then each alone."""
    moments = _Moments(histogram)
    low, high = histogram.low, histogram.high
    if grid == "symmetric":
        low, high = _symmetric(low, high)

    def best(lows: Array, highs: Array) -> Range:
        """Return the range of least error among those from `lows` to `highs`."""
        lows, highs = np.broadcast_arrays(lows, highs)
        place = int(moments.errors(lows, highs, grid).argmin())
        return float(lows[place]), float(highs[place])

    limits = best(low * SHRINKS, high * SHRINKS)
    if grid == "unsigned" and low < 0 < high:
        limits = best(low * SHRINKS, np.array([limits[1]]))
        limits = best(np.array([limits[0]]), high * SHRINKS)
    return limits


def _entropy(histogram: Histogram, levels: int) -> float:
    """Find the largest magnitude to keep, for a quantisation of magnitudes to `levels` levels.

    As in the paper that `find_range` cites, clipped values are counted in the last bin that is kept.
    """
    counts = histogram.magnitudes().astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    best = (np.inf, used)
    for kept in sorted({max(levels, round(used * part)) for part in SHRINKS[::2]}):
        inside = counts[:kept]
        if not inside.any():
            continue
        reference = inside.copy()
        reference[-1] += counts[kept:].sum()
        groups = np.arange(kept) * levels // kept
        filled = inside > 0
        members = np.bincount(groups, filled, levels)
        means = np.bincount(groups, inside, levels) / np.maximum(members, 1)
        best = min(best, (_divergence(reference, np.where(filled, means[groups], 0)), kept))
    return best[1] * histogram.width


def _divergence(reference: Array, other: Array) -> float:
    """Compute the Kullback-Leibler divergence of two histograms, from `reference` to `other`.

    An empty bin of `other` counts as a ten-thousandth of its mean bin, so that the divergence is finite.
    """
    p = reference / reference.sum()
    q = np.where(other > 0, other, 1e-4 * other.mean())
    q = q / q.sum()
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
