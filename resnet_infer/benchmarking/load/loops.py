"""Drive a system by closed and open loops, and keep the latency of every query."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from resnet_infer.benchmarking.latency.statistics import percent_of, reportable
from resnet_infer.benchmarking.load.system import Response, System
from resnet_infer.errors import UsageError

PATIENCE = 30.0
"""Seconds that the last responses may take."""
GIVE_UP = 100
"""Number of queries in a row without a response after which a system counts as gone."""


class Clock(Protocol):
    """Give the time and wait for it; tests have a simulated one."""

    def now(self) -> float:
        """Return the time in seconds."""

    def wait(self, until: float, event: threading.Event) -> bool:
        """Wait until that time or until the event is set, and return whether it is set."""


class RealClock:
    """Give the real time."""

    def now(self) -> float:
        """Return `time.perf_counter`."""
        return time.perf_counter()

    def wait(self, until: float, event: threading.Event) -> bool:
        """Wait until that time or until the event is set, and return whether it is set."""
        return event.wait(max(until - time.perf_counter(), 0.0))


@dataclass
class Load:
    """Count the outcomes of queries.

    `latencies` are seconds by status, where 0 is no response, and `due` the moments at which those queries were due, in
    seconds of any clock. `errors` counts the reasons for failures. `offered` is the number of queries sent. `seconds`
    is the time from the first query to the last response, or to the end of the load. `gone` says that the system
    stopped responding, which ended the load early.
    """

    seconds: float = 0.0
    offered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    due: dict[int, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    gone: bool = False

    def add(self, status: int, latency: float, error: str = "", due: float = 0.0) -> None:
        """Add a query: its status, its latency in seconds, why it failed, and when it was due."""
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency)
        self.due.setdefault(status, []).append(due)
        if status != 200:
            self.errors[error] += 1

    @property
    def failures(self) -> int:
        """The number of queries without a response of status 200."""
        return self.offered - self.statuses[200]

    @property
    def rate(self) -> float:
        """Successful queries per second."""
        return self.statuses[200] / self.seconds if self.seconds else 0.0

    def quantile(self, share: float, status: int = 200) -> float:
        """Return the seconds below which the share of the responses with that status stays."""
        ordered = sorted(self.latencies[status])
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def median(self) -> float:
        """The median seconds of successful queries."""
        return statistics.median(self.latencies[200])

    def percentile(self, share: float) -> float:
        """Return the seconds within which the share of all queries stays; infinite if too many of them failed."""
        ordered = sorted(self.latencies.get(200, ()))
        # Rounded first: 0.999 of 1000 is a little more than 999 in floating point.
        index = max(int(np.ceil(round(share * self.offered, 6))) - 1, 0)
        return ordered[index] if index < len(ordered) else float("inf")

    def in_order(self) -> list[float]:
        """Return the seconds of every query in the order in which they were due; infinite for those that failed.

        Queries without any response come last.
        """
        result = [
            (due, latency if status == 200 else float("inf"))
            for status, latencies in self.latencies.items()
            for due, latency in zip(self.due[status], latencies, strict=True)
        ]
        latencies = [latency for _, latency in sorted(result, key=lambda query: query[0])]
        return latencies + [float("inf")] * (self.offered - len(latencies))

    def __add__(self, other: Load) -> Load:
        """Return both loads as one, with the queries and the seconds of both."""
        result = Load(self.seconds + other.seconds, self.offered + other.offered, gone=self.gone or other.gone)
        for part in (self, other):
            result.statuses += part.statuses
            result.errors += part.errors
            for status, latencies in part.latencies.items():
                result.latencies.setdefault(status, []).extend(latencies)
                result.due.setdefault(status, []).extend(part.due[status])
        return result

    def to_json(self) -> dict[str, Any]:
        """Return percentiles in milliseconds; None for one that a failure reaches, or of too few queries."""
        figures: dict[str, Any] = {"achieved": round(self.rate, 2), "queries": self.offered}
        for name in ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"):
            value = self.percentile((percent_of(name) or 100) / 100)
            figures[name] = round(1000 * value, 3) if np.isfinite(value) else None
        return {**{name: reportable(figures, name) for name in figures}, "errors": self.failures}


class _Recorder:
    """Record responses. `finished` is set when all queries have one and no more will be sent, or the system is gone."""

    def __init__(self, clock: Clock) -> None:
        self.load = Load()
        self.finished = threading.Event()
        self._clock, self._lock = clock, threading.Lock()
        self._unanswered = self._silent = 0
        self._closing = self._closed = False

    def begin(self) -> None:
        """Count a query that is about to be sent."""
        with self._lock:
            self.load.offered += 1
            self._unanswered += 1

    def record(self, since: float, index: int, response: Response) -> None:
        """Record the response to a query that was due at `since`."""
        latency = self._clock.now() - since
        with self._lock:
            if self._closed:
                return
            self.load.add(response.status, latency, response.error, since)
            self._unanswered -= 1
            self._silent = self._silent + 1 if response.status == 0 else 0
            self.load.gone |= self._silent >= GIVE_UP
            self._check()

    def all_sent(self) -> None:
        """Note that no more queries will be sent."""
        with self._lock:
            self._closing = True
            self._check()

    def close(self, begin: float, until: float) -> Load:
        """Return the load; queries without a response have failed. `begin` and `until` are times of the clock."""
        with self._lock:
            self._closed = True
            self.load.seconds = max(self._clock.now(), until) - begin
            if self._unanswered:
                self.load.statuses[0] += self._unanswered
                self.load.errors["no answer until the end"] += self._unanswered
            return self.load

    def _check(self) -> None:
        if self.load.gone or (self._closing and not self._unanswered):
            self.finished.set()


def closed_loop(
    system: System,
    pictures: Sequence[bytes],
    *,
    clients: int,
    seconds: float | None = None,
    count: int | None = None,
    patience: float = PATIENCE,
    clock: Clock | None = None,
) -> Load:
    """Keep `clients` queries in progress, for `seconds` or for `count` queries in all.

    Each client sends its next query when it has its response. Such a loop never exceeds what the system can do, so that
    its latencies leave out queues; `open_loop` includes them. It ends when nothing is answered for `patience` seconds.
    """
    if clients < 1 or (seconds is None) == (count is None):
        raise UsageError("a closed loop has at least one client, and a length in seconds or in queries")
    clock = clock or RealClock()
    recorder, lock, pending = _Recorder(clock), threading.Lock(), threading.local()
    sent, ended = 0, 0
    begin = clock.now()
    until = begin + seconds if seconds is not None else float("inf")

    def send_next() -> bool:
        """Send the next query of a client, or end the client; return whether one was sent."""
        nonlocal sent, ended
        with lock:
            go_on = clock.now() < until and (count is None or sent < count) and not recorder.load.gone
            number = sent
            sent += go_on
            ended += not go_on
            last = ended == clients
        if go_on:
            recorder.begin()
            system.submit([pictures[number % len(pictures)]], partial(on_response, clock.now()))
        elif last:
            recorder.all_sent()
        return go_on

    def on_response(since: float, index: int, response: Response) -> None:
        recorder.record(since, index, response)
        send_due()

    def send_due() -> None:
        # A response within `submit` would nest calls without end.
        pending.due = getattr(pending, "due", 0) + 1
        if pending.due > 1:
            return
        while pending.due:
            send_next()
            pending.due -= 1

    for _ in range(clients):
        send_due()
    seen = -1
    while not clock.wait(clock.now() + patience, recorder.finished):
        now = sum(recorder.load.statuses.values())
        if now == seen:
            system.drop()
            break
        seen = now
    return recorder.close(begin, begin)


def open_loop(
    system: System,
    pictures: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    poisson: bool = True,
    seed: int = 0,
    patience: float = PATIENCE,
    clock: Clock | None = None,
) -> Load:
    """Send `rate` queries per second on average for `seconds`, whatever becomes of them; then wait for the last.

    Queries come independently of each other (a Poisson process), or evenly. A latency counts from the moment at which
    the query was due, so that neither a system that stalls nor a late sender makes it look better (no coordinated
    omission). A query without a response `patience` seconds after the last was due has failed.
    """
    if not rate > 0 or not seconds > 0:
        raise UsageError(f"an open loop has a rate and a length above 0, not {rate:g}/s and {seconds:g} s")
    clock = clock or RealClock()
    recorder = _Recorder(clock)
    due = arrivals(rate, seconds, seed) if poisson else np.arange(0, seconds, 1 / rate).tolist()
    begin = clock.now()
    for number, offset in enumerate(due):
        if clock.now() < begin + offset:
            clock.wait(begin + offset, recorder.finished)
        if recorder.load.gone:
            break
        recorder.begin()
        system.submit([pictures[number % len(pictures)]], partial(recorder.record, begin + offset))
    recorder.all_sent()
    if not clock.wait(begin + seconds + patience, recorder.finished):
        system.drop()
    return recorder.close(begin, begin if recorder.load.gone else begin + seconds)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when the queries of a Poisson process are due, from 0 to `seconds`: at least one.

    Given their number, they are independent and uniform (Ross, Introduction to Probability Models, 5.3.5). The number
    is random too. A fixed one has fewer crowds, and near the limit of a queue a fifth fewer late queries.
    """
    generator = np.random.default_rng(seed)
    due: list[float] = np.sort(generator.uniform(0, seconds, max(generator.poisson(rate * seconds), 1))).tolist()
    return due
