"""The highest rate at which a system keeps a promise, found by bisection and confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_infer.benchmark.load import Load

PRECISION = 0.04
"""The rate that is found and one that is too high are no further apart than this part of it."""
CONFIRMATIONS = 2
LOWEST = 1 / 20
"""Part of the capacity below which no rate is looked for."""
BOUNDS = 20
"""A run is so many times as long as the bound: with less, a queue that grows without end would stay within it."""
HOPELESS = 1 / 8
"""Part of the capacity at which a median above the bound ends the search."""
LEAST_QUERIES = 400
"""A 99th percentile of fewer is four queries' say."""
LONGEST = 30.0
"""Seconds that a run is lengthened to for their sake."""


@dataclass(frozen=True)
class Trial:
    """An open loop at a rate, and whether it kept the bound: no failures, and the 99th percentile within."""

    rate: float
    load: Load
    within: bool

    def to_json(self) -> dict[str, Any]:
        refused = self.load.statuses[503]
        return {"rate": round(self.rate, 2), **self.load.to_json(), "refused": refused, "within": self.within}


@dataclass(frozen=True)
class Found:
    """The highest rate that kept the bound, again and again; None if none did. `trials` in the order they were run."""

    rate: float | None
    trials: tuple[Trial, ...]


def judge(rate: float, load: Load, bound: float) -> Trial:
    """`bound` is in seconds."""
    return Trial(rate, load, not load.failures and not load.gone and load.percentile(0.99) <= bound)


def sweep(run: Callable[[float, float, int], Load], bound: float, *, capacity: float, seconds: float) -> Found:
    """The highest rate whose 99th percentile stays within `bound` seconds, to `PRECISION`.

    `run(rate, seconds, seed)` is an open loop, every time with another seed. `capacity` is about the highest rate that
    can be answered at all. A rate counts when it kept the bound in `CONFIRMATIONS` more runs; where it did not in one
    of them, lower ones are tried, in steps that grow. Runs last `seconds` or longer, so as to have `LEAST_QUERIES`.
    """
    trials: list[Trial] = []

    def keeps(rate: float) -> bool:
        wanted = min(LEAST_QUERIES / rate, LONGEST)
        load = run(rate, max(seconds, wanted, BOUNDS * bound), len(trials))
        trials.append(judge(rate, load, bound))
        return trials[-1].within

    def is_gone() -> bool:
        return bool(trials) and trials[-1].load.gone

    low, high = 0.0, 0.0
    rate = 0.8 * capacity
    while rate >= LOWEST * capacity and not is_gone():
        if keeps(rate):
            low = rate
        else:
            high = rate
            if rate < HOPELESS * capacity and trials[-1].load.percentile(0.5) > bound:
                break  # it is not the queue that takes so long
        if low and high and high <= low * (1 + PRECISION):
            break
        rate = (low + high) / 2 if low and high else low * 1.25 if low else high / 2
    step = PRECISION
    while low >= LOWEST * capacity and not is_gone():
        if all(keeps(low) for _ in range(CONFIRMATIONS)):
            return Found(low, tuple(trials))
        low *= 1 - step
        step = min(2 * step, 0.5)
    return Found(None, tuple(trials))
