"""How many queries come late at a rate, how sure that is, and at which rate just one in a hundred does.

Queries that share a queue are late together, so that a hundred of them say less than a hundred independent ones would.
How much less is the *dispersion*: the variance of the number of late queries in a batch over that of a binomial count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ALLOWED = 0.01
"""Share of the queries that may be late: a bound is one on the 99th percentile."""
TAIL = 0.9
"""The dispersion is also measured at this percentile of a trial's own latency, where more queries lie beyond it."""
BATCH_SECONDS, BATCH_BOUNDS = 1.0, 10
"""Length of a batch: at least so many seconds, and so many times the bound, to outlast what a queue remembers."""
BATCHES = (4, 40)
"""Fewest and most batches of a trial."""
WINDOW = 1.6
"""Rates further than this factor from the crossing do not take part in the fit."""
OVERLOADED, OVERLOADED_COUNTS_AS = 0.2, 20
"""With a larger share late, a trial is one long queue, and its queries count as so many independent ones."""
SLOPE = 8.0
"""The share of late queries rises with about this power of the rate; the fit is told so, give or take as much."""
SLOPES = (1.0, 60.0)
Z975 = 2.241402727604945
"""The normal distribution's 98.75% quantile: an interval of nominally 97.5%.

Late queries come in crowds, whose sizes are skewed, and a sweep chooses its rates and its end by what it measured
before. In simulations that costs up to 2.5% of the coverage.
"""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Late:
    """Queries at a rate, batch by batch in the order in which they were due: (batches,) each.

    `late` are those beyond the bound, `tail` those beyond the trial's own `TAIL` percentile.
    """

    queries: Counts
    late: Counts
    tail: Counts

    @cached_property
    def total(self) -> float:
        return float(self.queries.sum())

    @cached_property
    def share(self) -> float:
        return float(self.late.sum() / self.total)

    @cached_property
    def scatter(self) -> Counts:
        """Variances of `late` and `tail`, and those of binomial counts: (2, 2). Zeros where they cannot be told."""
        batches, counts = len(self.queries), np.stack([self.late, self.tail])
        shares = counts.sum(1) / self.total
        deviations = ((counts - shares[:, None] * self.queries) ** 2).sum(1) * batches / max(batches - 1, 1)
        known = (shares <= OVERLOADED) & (batches > 1)
        return np.where(known, [deviations, self.total * shares * (1 - shares)], 0.0)

    @classmethod
    def of(cls, latencies: Sequence[float], bound: float, seconds: float) -> Late:
        """Of a trial's latencies in the order in which they were due, infinite where there was no answer."""
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
    """How many queries say as much as one independent one: at least 1, the larger of two measurements.

    At the bound there may be few late queries to tell it from; at a trial's own `TAIL` percentile there always are.
    """
    observed, binomial = sum((trial.scatter for trial in trials), np.zeros((2, 2)))
    return float(np.divide(observed, binomial, out=np.ones(2), where=binomial > 0).max(initial=1.0))


def within(trial: Late, spread: float) -> bool | None:
    """Whether no more than `ALLOWED` are late: True or False with 97.5% confidence each, None where it is open.

    The binomial test for as many queries as are independent, `spread` being the dispersion.
    """
    queries = int(trial.total / spread)
    late = trial.late.sum() / spread
    if _at_most(math.ceil(late), queries) <= 0.025:
        return True
    return False if 1 - _at_most(math.floor(late) - 1, queries) <= 0.025 else None


def _at_most(late: int, queries: int) -> float:
    """The probability of no more than `late` of `queries` independent ones, if `ALLOWED` of all are."""
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
    """The rate at which `ALLOWED` of the queries are late, and its 95% interval; an end is None where none is found.

    `slope` says with which power of the rate the share of late queries rises there, `dispersion` is that of the
    queries around it.
    """

    rate: float
    low: float | None
    high: float | None
    slope: float
    dispersion: float

    @property
    def width(self) -> float:
        """Of the interval, as a part of the estimate; infinite where an end is missing."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / self.rate

    def at(self, share: float) -> float:
        """The rate at which that share is late."""
        return self.rate * math.exp((_logit(share) - _logit(ALLOWED)) / self.slope)


def crossing(rates: Sequence[float], trials: Sequence[Late], near: float) -> Crossing:
    """Where the share of late queries reaches `ALLOWED`, looked for around `near`.

    Its logit is taken to rise in proportion to the logarithm of the rate, over the rates within `WINDOW`. The interval
    is that of the quasi-likelihood (McCullagh and Nelder, Generalized Linear Models, 9.2): all crossings at which the
    best slope explains the counts almost as well. How much worse is too much is told by Student's t for as many
    degrees of freedom as batches had late queries, less the two of the line; see `Z975`.
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
    """Of each place of the crossing the best slope and its log-likelihood, by Newton's method."""
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
    """Student's 98.75% quantile, within 2% from three degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    z, n = Z975, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
