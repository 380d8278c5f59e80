"""Summarise the times of calls, and tell how certain a summary is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
QUANTILES = 100
"""Number of steps of the distribution that a result keeps."""


def enough(count: int, percent: float) -> bool:
    """Return whether so many values tell a percentile: at least one of them is expected to lie beyond it."""
    return round(count * min(percent, 100 - percent), 6) >= 100


def percent_of(figure: str) -> float | None:
    """Return the percentile that a figure's name stands for: 99.9 for `p99_9_ms`, None for `max_ms`."""
    found = re.fullmatch(r"(?:early_stopping_)?p(\d+)(?:_(\d+))?_ms", figure)
    return float(f"{found[1]}.{found[2] or 0}") if found else None


def reportable(figures: Mapping[str, Any], name: str) -> Any:
    """Return the figure of that name, or None for a percentile of too few queries; see `enough`."""
    percent, count = percent_of(name), figures.get("queries")
    return None if percent is not None and count is not None and not enough(count, percent) else figures.get(name)


@dataclass(frozen=True)
class Ratio:
    """Hold the median of paired ratios and its 95% interval, which is None for fewer than six pairs."""

    value: float
    interval: tuple[float, float] | None
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {"value": self.value, "interval": self.interval, "pairs": self.pairs}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return the ratio ours / theirs over the rounds in which both were measured, of which there is at least one.

    The interval is that of order statistics. It assumes no distribution, only independent rounds (Conover, Practical
    Nonparametric Statistics, 3.2). An outlier moves it by one rank, whatever its size.

        paired_ratio([2.0, 4.0], [1.0, 2.0]).value == 2.0
    """
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=False))
    rank = outer_rank(len(ratios))
    interval = (ratios[rank], ratios[-1 - rank]) if rank is not None else None
    return Ratio(float(np.median(ratios)), interval, len(ratios))


def outer_rank(count: int) -> int | None:
    """Return how many of `count` ordered values lie outside the median's 95% interval at each end."""
    outside, rank = 0.0, None
    for below in range(count // 2):
        outside += math.comb(count, below) / 2**count
        if 2 * outside > 0.05:
            break
        rank = below
    return rank


@dataclass(frozen=True)
class Summary:
    """Hold the calls of a stage, one array of seconds (calls,) for each round; each call answers `batch` pictures."""

    rounds: tuple[Seconds, ...]
    batch: int

    @property
    def calls(self) -> Seconds:
        """The seconds of the calls of all rounds, (calls,)."""
        return np.concatenate(self.rounds)

    @property
    def medians(self) -> list[float]:
        """The median seconds of each round."""
        return [float(np.median(times)) for times in self.rounds]

    def percentile(self, percent: float) -> float | None:
        """Return the seconds within which `percent` of the calls end, or None if too few calls lie beyond."""
        calls = self.calls
        return float(np.percentile(calls, percent)) if enough(len(calls), percent) else None

    @property
    def median(self) -> float:
        """The median seconds of all calls."""
        return float(np.median(self.calls))

    @property
    def spread(self) -> float:
        """The distance between the quartiles of the rounds' medians, as a share of their median."""
        low, middle, high = np.percentile(self.medians, (25, 50, 75))
        return float((high - low) / middle)

    @property
    def pictures_per_second(self) -> float:
        """Pictures over the total time, so that a slow call counts for as long as it took."""
        calls = self.calls
        return float(self.batch * len(calls) / calls.sum())

    def to_json(self) -> dict[str, Any]:
        """Return the calls, percentiles and quantiles, with times in milliseconds."""
        calls = self.calls * 1000
        tails = {f"p{percent}": self.percentile(percent) for percent in (90, 99)}
        return {
            "calls": len(calls),
            "ms": {
                "p50": self.median * 1000,
                **{name: None if value is None else value * 1000 for name, value in tails.items()},
                "mean": float(calls.mean()),
                "min": float(calls.min()),
                "max": float(calls.max()),
            },
            "spread": self.spread,
            "pictures_per_second": self.pictures_per_second,
            "rounds_ms": [value * 1000 for value in self.medians],
            "quantiles_ms": np.quantile(calls, np.linspace(0, 1, QUANTILES + 1)).tolist(),
        }
