"""What samples say, and how sure they are."""

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
"""Steps of the distribution that a report keeps."""


def enough(count: int, percent: float) -> bool:
    """Whether a percentile of so many values says something: with fewer than one beyond it, it is their extreme."""
    return round(count * min(percent, 100 - percent), 6) >= 100


def percent_of(figure: str) -> float | None:
    """The percentile that the name of a figure stands for: 99.9 of `p99_9_ms`, None of `max_ms`."""
    found = re.fullmatch(r"(?:early_stopping_)?p(\d+)(?:_(\d+))?_ms", figure)
    return float(f"{found[1]}.{found[2] or 0}") if found else None


def reportable(figures: Mapping[str, Any], name: str) -> Any:
    """The figure of that name, or None for a percentile of too few queries; see `enough`."""
    percent, count = percent_of(name), figures.get("queries")
    return None if percent is not None and count is not None and not enough(count, percent) else figures.get(name)


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, and its 95% interval; None for fewer than six pairs, which cannot give one."""

    value: float
    interval: tuple[float, float] | None
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "interval": self.interval, "pairs": self.pairs}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio ours / theirs over rounds in which both were measured: at least one.

    The interval is that of order statistics: it assumes no distribution, only that rounds are independent (Conover,
    Practical Nonparametric Statistics, 3.2). An outlier moves it by a rank, whatever its size.
    """
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=False))
    rank = outer_rank(len(ratios))
    interval = (ratios[rank], ratios[-1 - rank]) if rank is not None else None
    return Ratio(float(np.median(ratios)), interval, len(ratios))


def outer_rank(count: int) -> int | None:
    """How many of `count` ordered values lie outside of the median's 95% interval on each side."""
    outside, rank = 0.0, None
    for below in range(count // 2):
        outside += math.comb(count, below) / 2**count
        if 2 * outside > 0.05:
            break
        rank = below
    return rank


@dataclass(frozen=True)
class Summary:
    """The calls of a stage, round by round, in seconds; each call answers `batch` pictures."""

    rounds: tuple[Seconds, ...]
    batch: int

    @property
    def calls(self) -> Seconds:
        return np.concatenate(self.rounds)

    @property
    def medians(self) -> list[float]:
        """The median of every round."""
        return [float(np.median(times)) for times in self.rounds]

    def percentile(self, percent: float) -> float | None:
        """Seconds within which so many percent of the calls end; None with too few calls beyond it to tell."""
        calls = self.calls
        return float(np.percentile(calls, percent)) if enough(len(calls), percent) else None

    @property
    def median(self) -> float:
        return float(np.median(self.calls))

    @property
    def spread(self) -> float:
        """How far the medians of the rounds lie apart: the half between their quartiles, as a share of the median."""
        low, middle, high = np.percentile(self.medians, (25, 50, 75))
        return float((high - low) / middle)

    @property
    def pictures_per_second(self) -> float:
        """Pictures over time: slow calls count as long as they took."""
        calls = self.calls
        return float(self.batch * len(calls) / calls.sum())

    def to_json(self) -> dict[str, Any]:
        """Times in milliseconds."""
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
