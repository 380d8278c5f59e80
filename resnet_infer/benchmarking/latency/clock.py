"""Time calls, and warm up until their times are stable."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 0.1
"""Seconds of calls whose median is one step of a warm-up."""
WINDOWS = 3
"""Number of windows in a row whose medians have to agree."""
ALIKE = 0.05
"""Share by which the largest of these medians may exceed the smallest."""
LIMIT = 10.0
"""Seconds after which a warm-up ends though the times are not stable."""


@dataclass(frozen=True)
class WarmUp:
    """Hold how long a warm-up took, its number of calls, and whether the times became `stable` within the limit."""

    seconds: float
    calls: int
    stable: bool


def timed(call: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """Return the seconds of each call. There are at least `least`, and together they take at least `seconds`."""
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

    A call that takes longer than a window is one. The warm-up ends after `limit` seconds, stable or not.
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
