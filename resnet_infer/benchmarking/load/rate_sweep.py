"""The highest rate at which a system keeps a promise, as an interval that holds it 95 times of 100."""

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
"""An interval that is wider, as a part of the estimate, takes more runs."""
LENGTHENED = 5
"""So many times the seconds of the fewest runs, and a sweep ends however wide its interval is."""
BRACKET = 1.5
"""The search ends when a rate that kept the bound and one that did not are no further apart than this factor."""
AIMED = (0.005, 0.02)
"""Shares of late queries that the runs after the search aim at in turn, on both sides of the one that is allowed."""
FURTHEST = 1.25
"""Those rates are no further than this factor from the estimate.

A few late queries may look as if their share hardly rose with the rate. The rates that a flat curve asks for are so far
apart that they would not take part in the next fit, which then could not improve.
"""
STEP = 1.02
"""Rates are powers of this, so that runs at nearly the same rate are at the same one and count together."""
LOWEST = 1 / 20
"""Part of the capacity below which no rate is looked for."""
BOUNDS = 20
"""A run is so many times as long as the bound: with less, a queue that grows without end would stay within it."""
HOPELESS = 1 / 8
"""Part of the capacity at which a median above the bound ends the search."""
LEAST_QUERIES = 400
"""Fewest queries of a run: of 400 only four lie beyond the 99th percentile."""
LONGEST = 30.0
"""Seconds that a run is lengthened to for their sake."""


@dataclass(frozen=True)
class Trial:
    """Open loops at a rate, taken together, and whether they kept the bound.

    `within` is True where no query failed and 99% of them surely come within the bound, False where one failed or
    fewer do, and None where these queries do not tell. `late` counts them.
    """

    rate: float
    load: Load
    late: Late
    within: bool | None

    def to_json(self) -> dict[str, Any]:
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
    """What a sweep found; `crossing` is None if no rate kept the bound, or none that was tried broke it.

    `trials` has one entry for every rate, in their order; `runs` is how many open loops that took.
    """

    crossing: Crossing | None
    trials: tuple[Trial, ...]
    runs: int

    @property
    def seconds(self) -> float:
        """How long all open loops took."""
        return sum(trial.load.seconds for trial in self.trials)

    @property
    def gone(self) -> bool:
        return any(trial.load.gone for trial in self.trials)

    def reversals(self) -> Iterator[tuple[Trial, Trial]]:
        """Rates that broke the bound, each with a higher one that kept it: chance, or a machine that is not quiet."""
        for index, trial in enumerate(self.trials):
            higher = [other for other in self.trials[index + 1 :] if other.late.share <= ALLOWED]
            if trial.late.share > ALLOWED and higher:
                yield trial, min(higher, key=lambda other: other.late.share)


def judge(rate: float, load: Load, bound: float) -> Trial:
    """An open loop by itself. `bound` is in seconds."""
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
    """The rate whose 99th percentile is `bound` seconds, and its 95% interval.

    `run(rate, seconds, seed)` is an open loop, every time with another seed. `capacity` is about the highest rate that
    can be answered at all. First a rate that keeps the bound and one that does not are looked for; the other `runs` go
    to rates around the estimate, which is made anew after each. More follow while the interval is wider than `WIDTH`,
    until all have taken `lengthened * runs * seconds`. A query that failed is late, and so are all others of its run.
    Runs last `seconds` or longer, so as to have `LEAST_QUERIES`.
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
                return result(None)  # it is not the queue that takes so long
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
    """The rate at which that share should be late, or the nearest one that is not too far off."""
    return min(max(estimate.at(share), estimate.rate / FURTHEST), estimate.rate * FURTHEST)


def _locate(tried: dict[float, tuple[Load, Late]], near: float) -> Crossing:
    """The crossing, from the rates around the one that was thought to be it."""
    near = min(max(near, min(tried) / WINDOW), max(tried) * WINDOW)
    return crossing(list(tried), [late for _, late in tried.values()], near)
