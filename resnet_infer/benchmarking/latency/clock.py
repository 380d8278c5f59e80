"""Calls and the time they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 0.1
"""Seconds of calls whose median is one step of a warm-up."""
WINDOWS = 3
ALIKE = 0.05
LIMIT = 10.0


@dataclass(frozen=True)
class WarmUp:
    """What it took until the times of calls were `stable`, or that they were not within the limit."""

    seconds: float
    calls: int
    stable: bool


def timed(call: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """Seconds of each call; there are at least `least`, and together they take at least `seconds`."""
    clock, times, total = time.perf_counter, list[float](), 0.0
    while total < seconds or len(times) < least:
        start = clock()
        call()
        took = clock() - start
        times.append(took)
        total += took
    return times


def warm_up(call: Callable[[], object], limit: float = LIMIT) -> WarmUp:
    """Call until the medians of `WINDOWS` windows of `WINDOW` seconds in a row lie within `ALIKE` of each other.

    A call that takes longer is a window. After `limit` seconds it ends, stable or not.
    """
    medians: list[float] = []
    calls, start = 0, time.perf_counter()
    while True:
        times = timed(call, WINDOW)
        calls += len(times)
        medians = [*medians[1 - WINDOWS :], statistics.median(times)]
        stable = len(medians) == WINDOWS and max(medians) <= (1 + ALIKE) * min(medians)
        seconds = time.perf_counter() - start
        if stable or seconds >= limit:
            return WarmUp(seconds, calls, stable)
