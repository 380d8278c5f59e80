"""Find the highest rate at which a system keeps a bound on the latency, with a 95% interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from resnet_infer.benchmarking.load.lateness import ALLOWED, WINDOW, Crossing, Late, crossing, dispersion, within
from resnet_infer.benchmarking.load.loops import Load

RUNS = 24
"""Fewest open loops of a sweep, those of the search included."""
WIDTH = 0.22
"""Width of an interval, as a share of the rate, above which a sweep continues."""
LENGTHENED = 5
"""Multiple of the seconds of the fewest runs at which a sweep ends, however wide the interval is."""
BRACKET = 1.5
"""Ratio at which the search ends: of a rate that did not keep the bound to one that did."""
AIMED = (0.005, 0.02)
"""Shares of late queries that runs after the search aim at in turn, on both sides of the allowed one."""
FURTHEST = 1.25
"""Greatest ratio of those rates to the estimate.

A few late queries may look as if their share hardly rose with the rate. Rates chosen from a flat curve lie so far apart
that the next fit would leave them out, and could not improve.
"""
STEP = 1.02
"""Base of the grid of rates. Runs at nearly the same rate are at the same one, and count together."""
LOWEST = 1 / 20
"""Share of the capacity below which no rate is tried."""
BOUNDS = 20
"""Shortest run in multiples of the bound. In less, a queue that grows without end would stay within it."""
HOPELESS = 1 / 8
"""Share of the capacity at which a median above the bound ends the search."""
LEAST_QUERIES = 400
"""Fewest queries of a run: of 400 only four lie above the 99th percentile."""
LONGEST = 30.0
"""Seconds to which a run is lengthened to have that many."""


@dataclass(frozen=True)
class Trial:
    """Hold the open loops at a rate, taken together, and whether they kept the bound.

    `within` is True if no query failed and 99% of them come within the bound with confidence, False if one failed or
    fewer do, and None if these queries do not decide it. `late` counts them.
    """

    rate: float
    load: Load
    late: Late
    within: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the rate, percentiles in milliseconds, the share of late queries in percent, and the verdict."""
        return {
            "rate": round(self.rate, 2),
            "seconds": round(self.load.seconds, 2),
            **self.load.to_json(),
            "refused": self.load.statuses[503],
            "late_percent": None if self.load.failures else round(100 * self.late.share, 3),
            "within": self.within,
        }


@dataclass(frozen=True)
class SweepResult:
    """Hold the result of a sweep. `crossing` is None if no rate kept the bound, or every rate that was tried kept it.

    `trials` has one entry for each rate, in ascending order; `runs` is the number of open loops.
    """

    crossing: Crossing | None
    trials: tuple[Trial, ...]
    runs: int

    @property
    def seconds(self) -> float:
        """The seconds of all open loops."""
        return sum(trial.load.seconds for trial in self.trials)

    @property
    def gone(self) -> bool:
        """Whether the system stopped responding."""
        return any(trial.load.gone for trial in self.trials)

    def reversals(self) -> Iterator[tuple[Trial, Trial]]:
        """Yield each rate that broke the bound although a higher one kept it, with the higher one.

        That is chance, or a machine that is not quiet.
        """
        for index, trial in enumerate(self.trials):
            higher = [other for other in self.trials[index + 1 :] if other.late.share <= ALLOWED]
            if trial.late.share > ALLOWED and higher:
                yield trial, min(higher, key=lambda other: other.late.share)


def judge(rate: float, load: Load, bound: float) -> Trial:
    """Return the trial of a single open loop. `bound` is in seconds."""
    late = Late.of(load.in_order(), bound, load.seconds)
    return Trial(rate, load, late, _verdict(load, late, dispersion([late])))


def _verdict(load: Load, late: Late, spread: float) -> bool | None:
    return False if load.failures or load.gone else within(late, spread)


def sweep(
    run: Callable[[float, float, int], Load],
    bound: float,
    *,
    capacity: float,
    seconds: float,
    runs: int = RUNS,
    lengthened: float = LENGTHENED,
) -> SweepResult:
    """Find the rate whose 99th percentile is `bound` seconds, and its 95% interval.

    `run(rate, seconds, seed)` is an open loop, each time with another seed, of `seconds` or longer to have
    `LEAST_QUERIES`. `capacity` is about the highest rate that can be answered at all. First a search finds a rate that
    keeps the bound and one that does not. The rest of the `runs` go to rates around the estimate, which is fitted anew
    after each. More follow while the interval is wider than `WIDTH`, until all have taken `lengthened * runs *
    seconds`. A failed query is late, and so are all others of its run.
    """
    tried: dict[float, tuple[Load, Late]] = {}
    count, seconds_spent = 0, 0.0

    def attempt(target: float) -> tuple[float, Load, Late]:
        nonlocal count, seconds_spent
        rate = capacity * STEP ** round(math.log(target / capacity, STEP))
        load = run(rate, max(seconds, min(LEAST_QUERIES / rate, LONGEST), BOUNDS * bound), count)
        late = Late.of(load.in_order(), bound, load.seconds)
        if load.failures or load.gone:
            late = replace(late, late=late.queries)
        count += 1
        seconds_spent += load.seconds
        before = tried.get(rate)
        tried[rate] = (before[0] + load, before[1] + late) if before else (load, late)
        return rate, load, late

    def result(estimate: Crossing | None) -> SweepResult:
        spread = dispersion([late for _, late in tried.values()]) if estimate is None else estimate.dispersion
        trials = [Trial(rate, load, late, _verdict(load, late, spread)) for rate, (load, late) in sorted(tried.items())]
        return SweepResult(estimate, tuple(trials), count)

    low, high = 0.0, 0.0
    rate = 0.8 * capacity
    while not (low and high and high <= BRACKET * low):
        if rate < LOWEST * capacity or (count >= runs and not (low and high)):
            return result(None)
        rate, load, late = attempt(rate)
        if load.gone:
            return result(None)
        if late.share <= ALLOWED:
            low = rate
        else:
            high = rate
            if rate < HOPELESS * capacity and load.percentile(0.5) > bound:
                return result(None)  # a single query takes that long, without any queue
        rate = math.sqrt(low * high) if low and high else low * 1.25 if low else high / 2
    estimate = _locate(tried, math.sqrt(low * high))
    for _ in range(2):
        estimate = _locate(tried, estimate.rate)
    while count < runs or (estimate.width > WIDTH and seconds_spent < lengthened * runs * seconds):
        if attempt(_aim(estimate, AIMED[count % len(AIMED)]))[1].gone:
            return result(None)
        estimate = _locate(tried, estimate.rate)
    return result(estimate)


def _aim(estimate: Crossing, share: float) -> float:
    """Return the rate at which that share should be late, or the nearest one that is within `FURTHEST`."""
    return min(max(estimate.at(share), estimate.rate / FURTHEST), estimate.rate * FURTHEST)


def _locate(tried: dict[float, tuple[Load, Late]], near: float) -> Crossing:
    """Return the crossing, fitted from the rates around the previous estimate."""
    near = min(max(near, min(tried) / WINDOW), max(tried) * WINDOW)
    return crossing(list(tried), [late for _, late in tried.values()], near)
