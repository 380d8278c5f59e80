"""From the histogram of a tensor to the range that its integers shall cover."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.precision.histogram import SIDE, Histogram

Grid = Literal["unsigned", "symmetric"]
"""uint8 with a zero point, zero being one of its values; or int8 around zero."""
Method = Literal["mse", "minmax", "entropy", "percentile"]
Range = tuple[float, float]

PERCENTILE = 99.999
SHRINKS = np.geomspace(1.0, 0.02, 160)
"""The parts of the full range that `mse` and `entropy` try."""
TINY = 1e-20
"""The least step of a grid. Smaller values are as good as zero, and products of two steps must be normal floats."""

Array = NDArray[Any]


def find_range(histogram: Histogram, grid: Grid, method: Method) -> Range:
    """The lowest and highest value to be told apart; what lies outside is clipped. Zero is always inside.

    `minmax` clips nothing; `percentile` what is beyond `PERCENTILE` percent; `mse` minimises the mean squared error of
    quantised values; `entropy` the Kullback-Leibler divergence of their distribution (Migacz, "8-bit inference with
    TensorRT", GTC 2017). On the symmetric grid the range is (-a, a).
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
    """Scale and zero point of the grid that covers the range."""
    low, high = limits
    step = max(-low, high) / 127 if grid == "symmetric" else (high - low) / 255
    scale = np.float32(step if step > TINY else 1.0)
    return scale, 0 if grid == "symmetric" else round(-low / float(scale))


def _symmetric(low: float, high: float) -> Range:
    limit = max(-low, high)
    return -limit, limit


def _percentile(histogram: Histogram) -> Range:
    """The same share of all values is left out at both ends together."""
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
    """Count, sum and sum of squares of the values up to any point; within a bin they are taken as even."""

    def __init__(self, histogram: Histogram) -> None:
        self._width = histogram.width
        self._edges = np.arange(-SIDE, SIDE + 1) * self._width
        self._density = histogram.counts / self._width
        sums = np.cumsum(self._density * np.diff(_integrals(self._edges), axis=1), axis=1)
        self._sums = np.concatenate([np.zeros((3, 1)), sums], axis=1)

    def below(self, points: Array) -> Array:
        """The three of the values below each of `points`, (3, *points.shape). Zeros themselves do not count."""
        points = np.clip(points, self._edges[0], self._edges[-1])
        bins = np.minimum((points / self._width).astype(np.int64) + SIDE, 2 * SIDE - 1)
        bins -= points < self._edges[bins]
        rest = self._density[bins] * (_integrals(points) - _integrals(self._edges[bins]))
        result: Array = self._sums[:, bins] + rest
        return result

    def errors(self, lows: Array, highs: Array, grid: Grid) -> Array:
        """The summed squared error of all values when they are quantised, for each of the ranges given."""
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
    return np.stack([points, points**2 / 2, points**3 / 3])


def _least_squares(histogram: Histogram, grid: Grid) -> Range:
    """Both ends are shrunk together, then each alone."""
    moments = _Moments(histogram)
    low, high = histogram.low, histogram.high
    if grid == "symmetric":
        low, high = _symmetric(low, high)

    def best(lows: Array, highs: Array) -> Range:
        lows, highs = np.broadcast_arrays(lows, highs)
        place = int(moments.errors(lows, highs, grid).argmin())
        return float(lows[place]), float(highs[place])

    limits = best(low * SHRINKS, high * SHRINKS)
    if grid == "unsigned" and low < 0 < high:
        limits = best(low * SHRINKS, np.array([limits[1]]))
        limits = best(np.array([limits[0]]), high * SHRINKS)
    return limits


def _entropy(histogram: Histogram, levels: int) -> float:
    """The limit of absolute values. As in the source, what is clipped is counted with the last bin that is kept."""
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
    """Kullback-Leibler, of two histograms; where the other is empty, it has a ten-thousandth of a mean bin."""
    p = reference / reference.sum()
    q = np.where(other > 0, other, 1e-4 * other.mean())
    q = q / q.sum()
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
