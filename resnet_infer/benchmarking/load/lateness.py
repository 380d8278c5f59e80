"""Estimate the share of late queries at a rate, and the rate at which exactly one in a hundred is late.

Queries that share a queue are late together, so that a hundred of them tell less than a hundred independent ones. How
much less is the *dispersion*: the variance of the number of late queries in a batch over that of a binomial count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ALLOWED = 0.01
"""Share of the queries that may be late. A bound is one on the 99th percentile."""
TAIL = 0.9
"""Percentile of a trial's own latency at which the dispersion is estimated too, as more queries lie beyond it."""
BATCH_SECONDS, BATCH_BOUNDS = 1.0, 10
"""Shortest batch, in seconds and in multiples of the bound, so that it outlasts the memory of a queue."""
BATCHES = (4, 40)
"""Fewest and most batches of a trial."""
WINDOW = 1.6
"""Ratio to the crossing beyond which rates do not take part in the fit."""
OVERLOADED, OVERLOADED_COUNTS_AS = 0.2, 20
"""Share of late queries above which a trial is one long queue, and the number of independent queries it counts as."""
SLOPE = 8.0
"""Mean and deviation of the prior of the slope: the power of the rate with which the share of late queries rises."""
SLOPES = (1.0, 60.0)
"""Least and greatest power that is fitted."""
Z975 = 2.241402727604945
"""The normal distribution's 98.75% quantile, for an interval of nominally 97.5%.

Late queries come in crowds of skewed sizes, and a sweep chooses its rates and its end by what it measured before. In
simulations that costs up to 2.5% of the coverage.
"""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Late:
    """Count the queries of a trial, batch by batch in the order in which they were due: (batches,) each.

    `late` are those beyond the bound, and `tail` those beyond the trial's own `TAIL` percentile.
    """

    queries: Counts
    late: Counts
    tail: Counts

    @cached_property
    def total(self) -> float:
        """The number of queries."""
        return float(self.queries.sum())

    @cached_property
    def share(self) -> float:
        """The share of late queries."""
        return float(self.late.sum() / self.total)

    @cached_property
    def scatter(self) -> Counts:
        """Variances of `late` and `tail`, and those of binomial counts, (2, 2); zeros where they cannot be told."""
        batches, counts = len(self.queries), np.stack([self.late, self.tail])
        shares = counts.sum(1) / self.total
        deviations = ((counts - shares[:, None] * self.queries) ** 2).sum(1) * batches / max(batches - 1, 1)
        known = (shares <= OVERLOADED) & (batches > 1)
        return np.where(known, [deviations, self.total * shares * (1 - shares)], 0.0)

    @classmethod
    def of(cls, latencies: Sequence[float], bound: float, seconds: float) -> Late:
        """Count the queries of a trial. `bound` is in seconds, and `seconds` is the length of the trial.

        `latencies` are in the order in which the queries were due, and infinite where there was no response.
        """
        values = np.asarray(latencies, np.float64)
        count = int(seconds / max(BATCH_SECONDS, BATCH_BOUNDS * bound))
        parts = np.array_split(np.arange(len(values)), max(min(max(count, BATCHES[0]), BATCHES[1], len(values)), 1))
        tail = np.sort(values)[int(TAIL * len(values))] if len(values) else math.inf
        return cls(
            np.array([len(part) for part in parts], np.float64),
            np.array([(values[part] > bound).sum() for part in parts], np.float64),
            np.array([(values[part] >= tail).sum() for part in parts], np.float64),
        )

    def __add__(self, other: Late) -> Late:
        return Late(
            np.concatenate((self.queries, other.queries)),
            np.concatenate((self.late, other.late)),
            np.concatenate((self.tail, other.tail)),
        )


def dispersion(trials: Sequence[Late]) -> float:
    """Return how many queries tell as much as one independent query: the larger of two estimates, and at least 1.

    Few queries may lie beyond the bound; beyond a trial's own `TAIL` percentile there are always enough.
    """
    observed, binomial = sum((trial.scatter for trial in trials), np.zeros((2, 2)))
    return float(np.divide(observed, binomial, out=np.ones(2), where=binomial > 0).max(initial=1.0))


def within(trial: Late, spread: float) -> bool | None:
    """Return whether at most `ALLOWED` are late, each answer with 97.5% confidence, or None if it is undecided.

    This is the binomial test for as many queries as are independent. `spread` is the dispersion.
    """
    queries = int(trial.total / spread)
    late = trial.late.sum() / spread
    if _at_most(math.ceil(late), queries) <= 0.025:
        return True
    return False if 1 - _at_most(math.floor(late) - 1, queries) <= 0.025 else None


def _at_most(late: int, queries: int) -> float:
    """Return the probability of at most `late` of `queries` independent ones, if the share `ALLOWED` is late."""
    logs = [
        math.lgamma(queries + 1)
        - math.lgamma(k + 1)
        - math.lgamma(queries - k + 1)
        + k * math.log(ALLOWED)
        + (queries - k) * math.log1p(-ALLOWED)
        for k in range(min(late, queries) + 1)
    ]
    return min(math.fsum(map(math.exp, logs)), 1.0)


@dataclass(frozen=True)
class Crossing:
    """Hold the rate at which `ALLOWED` of the queries are late, and its 95% interval; an end is None if none is found.

    The share of late queries rises there with the power `slope` of the rate. `dispersion` is that of the queries around
    it.
    """

    rate: float
    low: float | None
    high: float | None
    slope: float
    dispersion: float

    @property
    def width(self) -> float:
        """The width of the interval as a share of the rate; infinite if an end is missing."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / self.rate

    def at(self, share: float) -> float:
        """Return the rate at which a share of the queries is late."""
        return self.rate * math.exp((_logit(share) - _logit(ALLOWED)) / self.slope)


def crossing(rates: Sequence[float], trials: Sequence[Late], near: float) -> Crossing:
    """Fit the rate at which the share of late queries reaches `ALLOWED`, near the rate `near`.

    The logit of the share is taken to be linear in the logarithm of the rate, over the rates within `WINDOW`. The
    interval is that of the quasi-likelihood (McCullagh and Nelder, Generalized Linear Models, 9.2): all crossings at
    which the best slope explains the counts almost as well. The limit is Student's t, whose degrees of freedom are the
    batches with late queries less the two parameters of the line; see `Z975`.
    """
    every = list(zip(rates, trials, strict=True))
    pairs = [(rate, trial) for rate, trial in every if near / WINDOW <= rate <= near * WINDOW]
    pairs = pairs if len(pairs) > 1 else every
    used = [trial for _, trial in pairs]
    spread = dispersion(used)
    x = np.log([rate for rate, _ in pairs])
    weights = np.array(
        [OVERLOADED_COUNTS_AS * spread / trial.total if trial.share > OVERLOADED else 1.0 for trial in used]
    )
    weights = np.minimum(weights, 1.0) / spread
    queries = weights * [trial.total for trial in used]
    late = weights * [trial.late.sum() for trial in used]
    crossings = np.linspace(x.min() - math.log(2), x.max() + math.log(2), 600)
    slopes, fit = _profile(crossings, x, queries, late)
    best = int(fit.argmax())
    freedom = sum(int((trial.late > 0).sum()) for trial in used if trial.share <= OVERLOADED) - 2
    near_enough = np.flatnonzero(2 * (fit[best] - fit) <= _t(max(freedom, 3)) ** 2)
    first, last = int(near_enough[0]), int(near_enough[-1])
    return Crossing(
        float(np.exp(crossings[best])),
        float(np.exp(crossings[first])) if first > 0 else None,
        float(np.exp(crossings[last])) if last < len(crossings) - 1 else None,
        float(slopes[best]),
        spread,
    )


def _profile(
    crossings: NDArray[np.float64], x: NDArray[np.float64], queries: Counts, late: Counts
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each crossing the best slope and its log-likelihood, by Newton's method."""
    offsets = x[None, :] - crossings[:, None]
    slopes = np.full(len(crossings), SLOPE)

    def line() -> NDArray[np.float64]:
        found: NDArray[np.float64] = _logit(ALLOWED) + slopes[:, None] * offsets
        return found

    for _ in range(20):
        share = 1 / (1 + np.exp(-line()))
        gradient = ((late - queries * share) * offsets).sum(1) - (slopes - SLOPE) / SLOPE**2
        curvature = (queries * share * (1 - share) * offsets**2).sum(1) + 1 / SLOPE**2
        before, slopes = slopes, np.clip(slopes + np.clip(gradient / curvature, -SLOPE, SLOPE), *SLOPES)
        if np.abs(slopes - before).max() < 1e-4:
            break
    fit = (late * line() - queries * np.logaddexp(0, line())).sum(1) - (slopes - SLOPE) ** 2 / (2 * SLOPE**2)
    return slopes, fit


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _t(freedom: int) -> float:
    """Return Student's 98.75% quantile, within 2% from three degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    z, n = Z975, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
