"""Closed and open loops: a system is asked, and every query's latency is kept."""

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
"""Seconds that the last answers may take."""
GIVE_UP = 100
"""So many queries one after the other without an answer, and a system counts as gone."""


class Clock(Protocol):
    """Time, which tests may pass by themselves."""

    def now(self) -> float: ...

    def wait(self, until: float, event: threading.Event) -> bool:
        """Until that time or until the event, and whether it is set."""


class RealClock:
    def now(self) -> float:
        return time.perf_counter()

    def wait(self, until: float, event: threading.Event) -> bool:
        return event.wait(max(until - time.perf_counter(), 0.0))


@dataclass
class Load:
    """What came of queries: `latencies` are seconds by status, 0 being no answer; of failures `errors` says why.

    `due` are the moments, in seconds of any clock, at which the queries of `latencies` were due.
    `offered` are the queries that were made, `seconds` the time from the first to the last answer or the end of the
    load. `gone` says that the system stopped answering, which ended the load early.
    """

    seconds: float = 0.0
    offered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    due: dict[int, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    gone: bool = False

    def add(self, status: int, latency: float, error: str = "", due: float = 0.0) -> None:
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency)
        self.due.setdefault(status, []).append(due)
        if status != 200:
            self.errors[error] += 1

    @property
    def failures(self) -> int:
        return self.offered - self.statuses[200]

    @property
    def rate(self) -> float:
        """Successes a second."""
        return self.statuses[200] / self.seconds if self.seconds else 0.0

    def quantile(self, share: float, status: int = 200) -> float:
        """Seconds that so many of the answers with that status stayed below."""
        ordered = sorted(self.latencies[status])
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def median(self) -> float:
        return statistics.median(self.latencies[200])

    def percentile(self, share: float) -> float:
        """Seconds that so many of all queries stayed within; infinite if too many of them failed."""
        ordered = sorted(self.latencies.get(200, ()))
        index = max(int(np.ceil(share * self.offered)) - 1, 0)
        return ordered[index] if index < len(ordered) else float("inf")

    def in_order(self) -> list[float]:
        """Seconds of every query in the order in which they were due; infinite for those that failed.

        Those without any answer come last.
        """
        result = [
            (due, latency if status == 200 else float("inf"))
            for status, latencies in self.latencies.items()
            for due, latency in zip(self.due[status], latencies, strict=True)
        ]
        latencies = [latency for _, latency in sorted(result, key=lambda query: query[0])]
        return latencies + [float("inf")] * (self.offered - len(latencies))

    def __add__(self, other: Load) -> Load:
        """Both as one: what was asked in either, and the seconds of both."""
        result = Load(self.seconds + other.seconds, self.offered + other.offered, gone=self.gone or other.gone)
        for part in (self, other):
            result.statuses += part.statuses
            result.errors += part.errors
            for status, latencies in part.latencies.items():
                result.latencies.setdefault(status, []).extend(latencies)
                result.due.setdefault(status, []).extend(part.due[status])
        return result

    def to_json(self) -> dict[str, Any]:
        """Milliseconds; None for a percentile that a failure reaches, or with too few queries to tell it."""
        figures: dict[str, Any] = {"achieved": round(self.rate, 2), "queries": self.offered}
        for name in ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"):
            value = self.percentile((percent_of(name) or 100) / 100)
            figures[name] = round(1000 * value, 3) if np.isfinite(value) else None
        return {**{name: reportable(figures, name) for name in figures}, "errors": self.failures}


class _Recorder:
    """Takes down verdicts; `finished` is set when all are there and no more will come, or the system is gone."""

    def __init__(self, clock: Clock) -> None:
        self.load = Load()
        self.finished = threading.Event()
        self._clock, self._lock = clock, threading.Lock()
        self._unanswered = self._silent = 0
        self._closing = self._closed = False

    def begin(self) -> None:
        with self._lock:
            self.load.offered += 1
            self._unanswered += 1

    def record(self, since: float, index: int, response: Response) -> None:
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
        """Everything was asked."""
        with self._lock:
            self._closing = True
            self._check()

    def close(self, begin: float, until: float) -> Load:
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
    """`clients` queries in progress all the time, for so many seconds, or so many in all.

    Each client asks again when it has its answer: what the system cannot do is never asked of it, so that the
    latencies say nothing of queues. For those there is `open_loop`. It ends when nothing is answered for `patience`
    seconds.
    """
    if clients < 1 or (seconds is None) == (count is None):
        raise UsageError("a closed loop has at least one client, and a length in seconds or in queries")
    clock = clock or RealClock()
    recorder, lock, pending = _Recorder(clock), threading.Lock(), threading.local()
    sent, ended = 0, 0
    begin = clock.now()
    until = begin + seconds if seconds is not None else float("inf")

    def send_next() -> bool:
        """A client asks once more, or goes."""
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
        # An answer within `submit` would nest one call in another, without end.
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
    """`rate` queries a second on average, whatever becomes of them, for so many seconds; then time for the last.

    They come independently of each other (a Poisson process), or evenly. A latency counts from the moment at which the
    query was due: neither a system that stalls nor a sender that comes late makes one look better (no coordinated
    omission). What is not answered `patience` seconds after the last was due has failed.
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
    """When the queries of a Poisson process are due, from 0 to `seconds`: at least one.

    Given their number they are independent and uniform (Ross, Introduction to Probability Models, 5.3.5). The number is
    left to chance too: a fixed one has fewer crowds, and near the limit of a queue a fifth fewer late queries.
    """
    generator = np.random.default_rng(seed)
    due: list[float] = np.sort(generator.uniform(0, seconds, max(generator.poisson(rate * seconds), 1))).tolist()
    return due
